package avrocodec

import (
	"fmt"
	"strings"

	"github.com/twmb/avro"
)

// shape says all of a schema that decides about the bytes and about what they mean: two schemas of one shape write the same values as the same
// bytes, and mean the same by them. It is Avro's canonical form (names in full, types, fields and symbols in their order; no docs, aliases or
// defaults), which lacks one thing that matters here, and that is added: logical types, without which milliseconds would pass for
// microseconds. A schema with attributes that Avro does not know has a shape of its own, so that nothing is taken for ours that may be meant
// otherwise.
func shape(s *avro.Schema) string {
	var b strings.Builder
	writeShape(&b, s.Root())
	return b.String()
}

func writeShape(b *strings.Builder, n *avro.SchemaNode) {
	fmt.Fprintf(b, "(%q %q", n.Type, n.LogicalType)
	if n.Name != "" {
		fmt.Fprintf(b, " name %q", fullName(n))
	}
	for i := range n.Fields {
		f := &n.Fields[i]
		fmt.Fprintf(b, " field %q%s", f.Name, foreignProps(f.Props))
		writeShape(b, &f.Type)
	}
	for _, symbol := range n.Symbols {
		fmt.Fprintf(b, " symbol %q", symbol)
	}
	if n.Items != nil {
		b.WriteString(" items")
		writeShape(b, n.Items)
	}
	if n.Values != nil {
		b.WriteString(" values")
		writeShape(b, n.Values)
	}
	for i := range n.Branches {
		b.WriteString(" branch")
		writeShape(b, &n.Branches[i])
	}
	fmt.Fprintf(b, " %d %d %d%s)", n.Size, n.Precision, n.Scale, foreignProps(n.Props))
}

// foreignProps says that there are attributes that Avro does not know.
func foreignProps(props map[string]any) string {
	if len(props) == 0 {
		return ""
	}
	return fmt.Sprintf(" props %q", fmt.Sprint(props)) // sorted by key
}
