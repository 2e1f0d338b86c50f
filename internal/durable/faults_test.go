package durable

import (
	"errors"
	"io/fs"
	"sync"
)

var errInjected = errors.New("injected failure")

// faults fails the nth operation of a kind, before or after its effect.
type faults struct {
	Ops
	mu    sync.Mutex
	op    string
	after bool
	hits  int
}

func (f *faults) do(op string, effect func() error) error {
	f.mu.Lock()
	hit := f.op == op
	if hit {
		f.hits++
	}
	f.mu.Unlock()
	if hit && !f.after {
		return errInjected
	}
	if err := effect(); err != nil {
		return err
	}
	if hit {
		return errInjected
	}
	return nil
}

func (f *faults) Create(name string, mode fs.FileMode) (File, error) {
	var file File
	err := f.do("create", func() (err error) { file, err = f.Ops.Create(name, mode); return err })
	if err != nil {
		if file != nil {
			_ = file.Close()
		}
		return nil, err
	}
	return &faultyFile{File: file, faults: f}, nil
}

func (f *faults) Publish(old string, to Parent, name string) error {
	return f.do("publish", func() error { return f.Ops.Publish(old, to, name) })
}

func (f *faults) Replace(old, name string) error {
	return f.do("replace", func() error { return f.Ops.Replace(old, name) })
}

func (f *faults) Remove(name string) error {
	return f.do("remove", func() error { return f.Ops.Remove(name) })
}

func (f *faults) Sync() error { return f.do("dirsync", f.Ops.Sync) }

type faultyFile struct {
	File
	faults *faults
}

func (f *faultyFile) Write(p []byte) (n int, err error) {
	err = f.faults.do("write", func() (err error) { n, err = f.File.Write(p); return err })
	return n, err
}

func (f *faultyFile) Sync() error { return f.faults.do("filesync", f.File.Sync) }
