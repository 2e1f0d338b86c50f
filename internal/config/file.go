package config

import "reflect"

// Decode reads a TOML file of another program's, strict and with the errors of a
// configuration, into a struct whose tags are those of Config: see field. What is not
// written keeps its value, or has its default.
func Decode(file string, data []byte, into any) error {
	target := reflect.ValueOf(into).Elem()
	d := &decoder{root: fieldOf(target.Type(), "", ""), values: map[string]Value{}}
	one, err := parseTOML(file, data)
	if err != nil {
		return &Errors{List: []*Error{err}}
	}
	d.at = one.at
	d.strict(one.root, d.root, "")
	d.table(one.root, d.root, "", target)
	if len(d.errors) > 0 {
		return &Errors{List: sortErrors(d.errors, []string{file})}
	}
	return nil
}
