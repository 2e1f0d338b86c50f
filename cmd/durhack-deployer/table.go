package main

import (
	"fmt"
	"io"
	"strings"
	"unicode"

	"golang.org/x/text/width"
)

// table prints aligned rows; every cell is escaped. Colours are added after
// the alignment, which text/tabwriter cannot do.
type table struct {
	w    io.Writer
	rows [][]cell
}

type cell struct {
	text   string
	colour colour
}

func newTable(w io.Writer, header ...string) *table {
	t := &table{w: w}
	t.row(header...)
	return t
}

func (t *table) row(cells ...string) { t.paintedRow(-1, "", cells...) }

// paintedRow is row with one cell in colour.
func (t *table) paintedRow(column int, c colour, cells ...string) {
	row := make([]cell, len(cells))
	for i, text := range cells {
		row[i].text = printable(text)
		if i == column {
			row[i].colour = c
		}
	}
	t.rows = append(t.rows, row)
}

func (t *table) flush() error {
	var widths []int
	for _, row := range t.rows {
		for i, c := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], columns(c.text))
		}
	}
	p := painterFor(t.w)
	for _, row := range t.rows {
		var line strings.Builder
		for i, c := range row {
			if i == len(row)-1 {
				line.WriteString(p.paint(c.colour, c.text))
				break
			}
			line.WriteString(p.paint(c.colour, c.text) + strings.Repeat(" ", widths[i]-columns(c.text)+2))
		}
		if _, err := fmt.Fprintln(t.w, strings.TrimRight(line.String(), " ")); err != nil {
			return err
		}
	}
	return nil
}

// pad fills s up to n columns of a terminal.
func pad(s string, n int) string { return s + strings.Repeat(" ", max(0, n-columns(s))) }

// columns is how many columns of a terminal s takes.
func columns(s string) int {
	n := 0
	for _, r := range s {
		switch {
		case unicode.In(r, unicode.Mn, unicode.Me): // drawn over the one before
		case width.LookupRune(r).Kind() == width.EastAsianWide, width.LookupRune(r).Kind() == width.EastAsianFullwidth:
			n += 2
		default:
			n++
		}
	}
	return n
}
