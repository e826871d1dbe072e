package replay

import (
	"fmt"
	"slices"
	"testing"
)

func TestDiffNamesFields(t *testing.T) {
	t.Parallel()
	type m map[string]any
	for what, c := range map[string]struct {
		before, after any
		want          []string
	}{
		"the same":              {m{"a": 1}, m{"a": 1}, nil},
		"a scalar":              {m{"a": 1, "b": "x"}, m{"a": 2, "b": "x"}, []string{"a: 1 → 2"}},
		"a field that comes":    {m{}, m{"a": true}, []string{"a: <nil> → true"}},
		"deep":                  {m{"a": m{"b": m{"c": 1}}}, m{"a": m{"b": m{"c": nil}}}, []string{"a.b.c: 1 → <nil>"}},
		"elements by name":      {m{"l": []any{m{"node": "x", "v": 1}, m{"node": "y", "v": 1}}}, m{"l": []any{m{"node": "y", "v": 2}, m{"node": "x", "v": 1}}}, []string{"l[y].v: 1 → 2"}},
		"elements by index":     {m{"l": []any{1, 2}}, m{"l": []any{1, 3, 4}}, []string{"l[1]: 2 → 3", "l[2]: <nil> → 4"}},
		"two of one name":       {m{"l": []any{m{"name": "x"}, m{"name": "x", "v": 1}}}, m{"l": []any{m{"name": "x"}, m{"name": "x", "v": 2}}}, []string{"l[1].v: 1 → 2"}},
		"another kind of value": {m{"a": m{"b": 1}}, m{"a": 7}, []string{"a: map[b:1] → 7"}},
		"an empty list":         {m{"a": nil}, m{"a": []any{}}, []string{"a: <nil> → []"}},
		"all of it":             {nil, m{"a": 1, "b": m{"c": 2}}, []string{"a: <nil> → 1", "b.c: <nil> → 2"}},
	} {
		changes, err := Diff(c.before, c.after)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, x := range changes {
			got = append(got, fmt.Sprintf("%s: %v → %v", x.Path, x.Old, x.New))
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, expected %v", what, got, c.want)
		}
	}
	if _, err := Diff(func() {}, nil); err == nil {
		t.Error("compared a function")
	}
}
