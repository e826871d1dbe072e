package main

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
)

func source(t *testing.T, fields string) (string, error) {
	t.Helper()
	d := definition{name: "Thing", kind: "record"}
	if err := json.Unmarshal([]byte(fields), &d.fields); err != nil {
		t.Fatal(err)
	}
	types := "package schemas\ntype Thing struct {\nA string `avro:\"a\"`\n}\n"
	code, err := avroCodec([]definition{{name: "Empty", kind: "record"}, {name: "Color", kind: "enum", symbols: []string{"RED"}}, d}, []byte(types))
	return string(code), err
}

// A type that the generated codec does not know is an error of the generator, not of a program that runs.
func TestUnknownTypesAreRefused(t *testing.T) {
	t.Parallel()
	for _, typ := range []string{
		`"float"`, `"Nobody"`, `{"type":"map","values":"string"}`, `{"type":"long","logicalType":"timestamp-millis"}`, `["string","null"]`, `["null","string","long"]`,
		`{"type":"array","items":{"type":"array","items":"long"}}`, `{"type":"array","items":["null","long"]}`, `["null",{"type":"array","items":"long"}]`, `["null",["null","long"]]`,
	} {
		_, err := source(t, `[{"name":"a","type":`+typ+`}]`)
		if err == nil || !strings.Contains(err.Error(), "generate the codec of Thing: field a: the type ") || !strings.Contains(err.Error(), "schemas/gen/avro.go") {
			t.Errorf("%s: %v", typ, err)
		}
	}
	if _, err := source(t, `[{"name":"a","type":{"type":"array","items":"Empty"}}]`); err == nil || !strings.Contains(err.Error(), "nothing bounds how many of them Empty may claim") {
		t.Errorf("an array of nothing: %v", err)
	}
	if _, err := avroCodec([]definition{{name: "F", kind: "fixed"}}, []byte("package schemas")); err == nil || !strings.Contains(err.Error(), `of type "fixed", expected record or enum`) {
		t.Errorf("a fixed: %v", err)
	}
}

func TestKnownTypesAreGenerated(t *testing.T) {
	t.Parallel()
	for typ, want := range map[string]string{
		`"string"`:                          `v.A = r.string("a")`,
		`"io.regent.v1.Color"`:              `v.A = colorSymbols[r.symbol("a", len(colorSymbols))]`,
		`["null","Color"]`:                  `(*v.A) = colorSymbols[r.symbol("a", len(colorSymbols))]`,
		`{"type":"array","items":"double"}`: `r.block("a", 8)`,
		`["null","Empty"]`:                  `v.A.readAvro(r)`,
	} {
		code, err := source(t, `[{"name":"a","type":`+typ+`}]`)
		if err != nil || !strings.Contains(code, want) {
			t.Errorf("%s: %v; want %q in\n%s", typ, err, want, code)
		}
	}
}

// The check sees a change in each of the generated files.
func TestCheckSeesWhatIsNotCurrent(t *testing.T) {
	t.Parallel()
	if err := run("..", true); err != nil {
		t.Fatal(err)
	}
	generated, err := generate("..")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"types_gen.go", "records_gen.go", "avro_gen.go"} {
		dir := t.TempDir()
		for other, content := range generated {
			if other == name {
				content = append(content[:len(content):len(content)], "// by hand\n"...)
			}
			if err := os.WriteFile(dir+"/"+other, content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := compare(dir, generated); err == nil || !strings.Contains(err.Error(), name+" is not current with the .avsc files: run `make generate`") {
			t.Errorf("%s was changed: %v", name, err)
		}
	}
}
