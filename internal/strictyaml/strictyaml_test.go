package strictyaml

import (
	"strings"
	"testing"
	"time"
)

type file struct {
	Name  string            `yaml:"name"`
	Count int32             `yaml:"count"`
	Wait  time.Duration     `yaml:"wait"`
	Parts []part            `yaml:"parts"`
	Extra map[string]string `yaml:"extra"`
}

type part struct {
	Name string `yaml:"name"`
	On   bool   `yaml:"on"`
}

func TestDecodeReportsEveryFaultWithItsLine(t *testing.T) {
	t.Parallel()
	const text = `name: a
count: many
colour: red
wait: soon
parts:
  - name: x
    on: perhaps
    size: 3
  - [1, 2]
extra: [a]
`
	var f file
	_, faults := Decode("things.yaml", []byte(text), &f)
	want := `read things.yaml: 7 faults:
  line 2: found text "many", expected a whole number (int32)
  line 3: unknown field "colour"
  line 4: found text "soon", expected a duration such as 5s
  line 7: found text "perhaps", expected true or false
  line 8: unknown field "size"
  line 9: found a list, expected a mapping
  line 10: found a list, expected a mapping`
	if err := faults.Err(); err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

func TestDecodeRefusesWhatIsNotOneDocument(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ text, want string }{
		"empty":         {"", "the file is empty"},
		"only comments": {"# nothing\n", "the file is empty"},
		"two documents": {"name: a\n---\nname: b\n", "a second document follows"},
		"repeated key":  {"name: a\nname: b\n", `mapping key "name" already defined at line 1`},
		"broken":        {"name: [a\n", "line 1: did not find expected"},
		"a list":        {"- a\n", "line 1: found a list, expected a mapping"},
		"huge":          {strings.Repeat("#", MaxBytes+1), "expected at most 1048576"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var f file
			_, faults := Decode("x.yaml", []byte(c.text), &f)
			if err := faults.Err(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q in it", err, c.want)
			}
		})
	}
}

func TestLineFindsWhatThePathNames(t *testing.T) {
	t.Parallel()
	var f file
	doc, faults := Decode("x.yaml", []byte("name: a\nparts:\n  - name: x\n  - name: y\n    on: true\n"), &f)
	if err := faults.Err(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		want int
		path []any
	}{
		{1, nil},
		{1, []any{"name"}},
		{4, []any{"parts", 1}},
		{5, []any{"parts", 1, "on"}},
		{4, []any{"parts", 1, "missing"}},
		{3, []any{"parts", 7}},
	} {
		if got := doc.Line(c.path...); got != c.want {
			t.Errorf("Line(%v) = %d, want %d", c.path, got, c.want)
		}
	}
	if got := (*Document)(nil).Line("a"); got != 0 {
		t.Errorf("no document has line %d", got)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte("name: a\nparts: [{name: x}]\n"))
	f.Add([]byte("a: &a [*a]"))
	f.Add([]byte("name: !!binary x\n"))
	f.Fuzz(func(_ *testing.T, raw []byte) {
		var out file
		doc, faults := Decode("x.yaml", raw, &out)
		_ = doc.Line("parts", 0, "name")
		_ = faults.Error()
	})
}
