package localpg_test

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
)

// xz wraps data, uncompressed, in the .xz container, for which Go has no
// writer. See "The .xz File Format", version 1.2.1.
func xz(data []byte) []byte {
	le32 := binary.LittleEndian.AppendUint32
	crc := func(b []byte) []byte { return le32(nil, crc32.ChecksumIEEE(b)) }
	var out bytes.Buffer

	flags := []byte{0, 0} // no check of the content
	out.WriteString("\xfd7zXZ\x00")
	out.Write(flags)
	out.Write(crc(flags))

	// A block header of (2+1)*4 bytes: one filter, LZMA2, with a dictionary of 1 MiB.
	header := []byte{2, 0, 0x21, 1, 16, 0, 0, 0}
	start := out.Len()
	out.Write(header)
	out.Write(crc(header))
	for first, rest := true, data; len(rest) > 0; first = false {
		n := min(len(rest), 1<<16)
		control := byte(2) // an uncompressed chunk
		if first {
			control = 1 // and a fresh dictionary
		}
		out.WriteByte(control)
		out.Write(binary.BigEndian.AppendUint16(nil, uint16(n-1)))
		out.Write(rest[:n])
		rest = rest[n:]
	}
	out.WriteByte(0)
	unpadded := out.Len() - start
	for out.Len()%4 != 0 {
		out.WriteByte(0)
	}

	index := binary.AppendUvarint([]byte{0, 1}, uint64(unpadded))
	index = binary.AppendUvarint(index, uint64(len(data)))
	for len(index)%4 != 0 {
		index = append(index, 0)
	}
	out.Write(index)
	out.Write(crc(index))

	footer := append(le32(nil, uint32((len(index)+4)/4-1)), flags...)
	out.Write(crc(footer))
	out.Write(footer)
	out.WriteString("YZ")
	return out.Bytes()
}
