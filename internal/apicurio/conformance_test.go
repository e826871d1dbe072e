package apicurio_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/regent-infra/regent/internal/apicurio"
	"github.com/regent-infra/regent/internal/avrocodec"
	"github.com/regent-infra/regent/internal/embedded/registry"
)

// forgetful is a log that keeps nothing: the registry lives as long as the test.
type forgetful struct{}

func (forgetful) Append(context.Context, []byte, []byte) error { return nil }

// pair is the two registries that are asked the same.
type pair struct {
	*testing.T
	ours, theirs string
}

func startPair(t *testing.T) *pair {
	t.Helper()
	own, err := registry.New(registry.Config{
		Log: forgetful{}, Compatible: func(writer, reader string) error { return avrocodec.Compatible(reader, writer) },
	})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(own.Handler())
	t.Cleanup(server.Close)
	other, err := apicurio.Start(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(other.Close)
	return &pair{t, server.URL, other.URL()}
}

// answer is what a client looks at: the status, the error code, and what a successful answer says.
type answer struct {
	status int
	code   int
	body   any
}

func (p *pair) ask(base string, ids map[float64]int, method, path, body string) answer {
	p.Helper()
	request, err := http.NewRequestWithContext(p.Context(), method, base+path, strings.NewReader(body))
	if err != nil {
		p.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/vnd.schemaregistry.v1+json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		p.Fatal(err)
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	if err != nil {
		p.Fatal(err)
	}
	a := answer{status: response.StatusCode}
	if err := json.Unmarshal(raw, &a.body); err != nil {
		a.body = string(raw)
	}
	object, _ := a.body.(map[string]any)
	if names, ok := a.body.([]any); ok { // in an order of their own
		slices.SortFunc(names, func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
	}
	if a.status >= http.StatusBadRequest {
		code, _ := object["error_code"].(float64)
		a.code, a.body = int(code), nil
		return a
	}
	// Both count up, but Apicurio leaves gaps: what counts is which answers have the same id.
	if id, ok := object["id"].(float64); ok {
		if _, known := ids[id]; !known {
			ids[id] = len(ids) + 1
		}
		object["id"] = ids[id]
	}
	if object["reason"] == nil {
		delete(object, "reason") // an addition of theirs, which says nothing
	}
	// Left out by ours, as by Confluent's, where it says nothing.
	if object["schemaType"] == "AVRO" {
		delete(object, "schemaType")
	}
	if references, ok := object["references"].([]any); ok && len(references) == 0 {
		delete(object, "references")
	}
	return a
}

func quoted(schema string, more ...string) string {
	raw, _ := json.Marshal(schema) // strings can always be encoded
	return fmt.Sprintf(`{"schema":%s%s}`, raw, strings.Join(more, ""))
}

func record(fields string) string {
	return `{"type":"record","name":"R","namespace":"n","fields":[` + fields + `]}`
}

func outer(fields string) string { return strings.Replace(record(fields), `"R"`, `"Outer"`, 1) }

const (
	aInt     = `{"name":"a","type":"int"}`
	aLong    = `{"name":"a","type":"long"}`
	aString  = `{"name":"a","type":"string"}`
	bDefault = `{"name":"b","type":"int","default":0}`
)

// Both registries are asked the same in the same order, and answer the same, except where a difference is known.
func TestBothRegistriesAnswerTheSame(t *testing.T) {
	t.Parallel()
	p := startPair(t)
	ourIDs, theirIDs := map[float64]int{}, map[float64]int{}
	for _, step := range []struct {
		method, path, body string
		// differs says why Apicurio's answer is another one. Ours is then that of Confluent's registry.
		differs string
	}{
		{"GET", "/subjects", "", ""},
		{"GET", "/config", "", "its default is NONE"},
		{"PUT", "/config", `{"compatibility":"BACKWARD"}`, ""},
		{"GET", "/config", "", ""},
		{"GET", "/mode", "", "it has no modes"},
		{"GET", "/schemas/types", "", "it keeps other languages, too"},
		{"GET", "/contexts", "", "it writes the default context in another way"},
		{"POST", "/subjects/one/versions", quoted(record(aInt)), ""},
		{"POST", "/subjects/one/versions", quoted(record(aInt)), ""},
		{"POST", "/subjects/two/versions", quoted(record(aInt)), ""},
		{"PUT", "/config/one", `{"compatibility":"BACKWARD"}`, ""},
		{"GET", "/config/one", "", ""},
		{"GET", "/config/two", "", "it answers NONE where nothing is set"},
		{"GET", "/config/two?defaultToGlobal=true", "", "it does not fall back to the global level"},
		{"POST", "/compatibility/subjects/one/versions", quoted(record(aLong)), ""},
		{"POST", "/compatibility/subjects/one/versions/latest", quoted(record(aString)), ""},
		{"POST", "/compatibility/subjects/one/versions/1", quoted(record(aString)), ""},
		{"POST", "/compatibility/subjects/one/versions/7", quoted(record(aLong)), ""},
		{"POST", "/compatibility/subjects/none/versions", quoted(record(aLong)), "it wants the subject to exist"},
		{"POST", "/compatibility/subjects/none/versions/latest", quoted(record(aLong)), "it wants the subject to exist"},
		{"POST", "/subjects/one/versions", quoted(record(aString)), ""},
		{"POST", "/subjects/one/versions", quoted(record(aLong)), ""},
		{"POST", "/subjects/one/versions", quoted(record(aLong + "," + bDefault)), ""},
		{"GET", "/subjects", "", ""},
		{"GET", "/subjects/one/versions", "", ""},
		{"GET", "/subjects/one/versions/1", "", ""},
		{"GET", "/subjects/one/versions/latest", "", ""},
		{"GET", "/subjects/one/versions/-1", "", ""},
		{"GET", "/subjects/one/versions/1/schema", "", ""},
		{"GET", "/subjects/one/versions/9", "", ""},
		{"GET", "/subjects/one/versions/0", "", "it takes any text for a version"},
		{"GET", "/subjects/one/versions/x", "", "it takes any text for a version"},
		{"GET", "/subjects/none/versions", "", ""},
		{"GET", "/subjects/none/versions/1", "", ""},
		{"GET", "/schemas/ids/1", "", ""},
		{"GET", "/schemas/ids/1/schema", "", "it does not have this"},
		{"GET", "/schemas/ids/1/subjects", "", "it does not have this"},
		{"GET", "/schemas/ids/1/versions", "", ""},
		{"GET", "/schemas/ids/4711", "", ""},
		{"POST", "/subjects/one", quoted(record(aLong)), ""},
		{"POST", "/subjects/one", quoted(record(aString)), ""},
		{"POST", "/subjects/none", quoted(record(aLong)), ""},
		{"POST", "/subjects/one/versions", quoted(`{"type":"recard"}`), ""},
		{"POST", "/subjects/one/versions", quoted(record(aInt), `,"schemaType":"NONSENSE"`), "it fails"},
		{"PUT", "/config", `{"compatibility":"NONSENSE"}`, "it does not read the request"},
		{"PUT", "/config", `{"compatibility":"FULL"}`, ""},
		{"GET", "/config", "", ""},
		{"POST", "/subjects/two/versions", quoted(record(aLong)), ""},
		{"POST", "/subjects/user/versions", quoted(outer(`{"name":"r","type":"n.R"}`), `,"references":[{"name":"n.R","subject":"one","version":1}]`), ""},
		{"GET", "/subjects/one/versions/1/referencedby", "", "the ids are not mapped in this answer"},
		{"DELETE", "/subjects/one/versions/1", "", ""},
		{"GET", "/subjects/user/versions/1", "", ""},
		{"POST", "/subjects/user/versions", quoted(record(`{"name":"r","type":"n.R"}`), `,"references":[{"name":"n.R","subject":"one","version":1}]`), ""},
		{"POST", "/subjects/user/versions", quoted(outer(`{"name":"r","type":"n.X"}`), `,"references":[{"name":"n.X","subject":"none","version":1}]`), ""},
		{"DELETE", "/config/one", "", ""},
		{"GET", "/config/one", "", "it answers NONE where nothing is set"},
		{"DELETE", "/subjects/one/versions/2", "", ""},
		{"GET", "/subjects/one/versions", "", ""},
		{"GET", "/subjects/one/versions?deleted=true", "", ""},
		{"DELETE", "/subjects/one/versions/2", "", "the same code with the status 409"},
		{"DELETE", "/subjects/one/versions/3?permanent=true", "", "the same code with the status 409"},
		{"DELETE", "/subjects/one/versions/2?permanent=true", "", ""},
		{"DELETE", "/subjects/two?permanent=true", "", "the same code with the status 409"},
		{"DELETE", "/subjects/two", "", ""},
		{"GET", "/subjects", "", ""},
		{"GET", "/subjects?deleted=true", "", ""},
		{"DELETE", "/subjects/two", "", ""},
		{"DELETE", "/subjects/two?permanent=true", "", ""},
		{"GET", "/subjects?deleted=true", "", ""},
		{"DELETE", "/subjects/none", "", ""},
		{"PUT", "/mode", `{"mode":"READONLY"}`, "it has no modes"},
		{"GET", "/mode", "", "it has no modes"},
	} {
		ours, theirs := p.ask(p.ours, ourIDs, step.method, step.path, step.body), p.ask(p.theirs, theirIDs, step.method, step.path, step.body)
		if same := reflect.DeepEqual(ours, theirs); same != (step.differs == "") {
			t.Errorf("%s %s %s:\n ours   %+v\n theirs %+v\n known difference: %q", step.method, step.path, step.body, ours, theirs, step.differs)
		}
	}
}

// evolutions are schemas and what they become.
var evolutions = map[string][2]string{
	"nothing":                     {record(aInt), record(aInt)},
	"documentation":               {record(aInt), record(`{"name":"a","type":"int","doc":"a number"}`)},
	"int to long":                 {record(aInt), record(aLong)},
	"int to float":                {record(aInt), record(`{"name":"a","type":"float"}`)},
	"long to float":               {record(aLong), record(`{"name":"a","type":"float"}`)},
	"long to double":              {record(aLong), record(`{"name":"a","type":"double"}`)},
	"double to float":             {record(`{"name":"a","type":"double"}`), record(`{"name":"a","type":"float"}`)},
	"int to string":               {record(aInt), record(aString)},
	"string to bytes":             {record(aString), record(`{"name":"a","type":"bytes"}`)},
	"bytes to string":             {record(`{"name":"a","type":"bytes"}`), record(aString)},
	"boolean to int":              {record(`{"name":"a","type":"boolean"}`), record(aInt)},
	"field with a default":        {record(aInt), record(aInt + "," + bDefault)},
	"field without a default":     {record(aInt), record(aInt + `,{"name":"b","type":"int"}`)},
	"field taken away":            {record(aInt + "," + bDefault), record(aInt)},
	"needed field taken away":     {record(aInt + `,{"name":"b","type":"int"}`), record(aInt)},
	"field renamed":               {record(aInt), record(`{"name":"z","type":"int"}`)},
	"field renamed by alias":      {record(aInt), record(`{"name":"z","type":"int","aliases":["a"]}`)},
	"order of fields":             {record(aInt + "," + aStringB), record(aStringB + "," + aInt)},
	"union made":                  {record(aInt), record(`{"name":"a","type":["null","int"]}`)},
	"union undone":                {record(`{"name":"a","type":["null","int"]}`), record(aInt)},
	"union widened":               {record(`{"name":"a","type":["null","int"]}`), record(`{"name":"a","type":["null","int","string"]}`)},
	"union narrowed":              {record(`{"name":"a","type":["null","int","string"]}`), record(`{"name":"a","type":["null","int"]}`)},
	"union with promotion":        {record(`{"name":"a","type":["null","int"]}`), record(`{"name":"a","type":["null","long"]}`)},
	"union in another order":      {record(`{"name":"a","type":["null","int"]}`), record(`{"name":"a","type":["int","null"]}`)},
	"optional field":              {record(aInt), record(aInt + `,{"name":"b","type":["null","string"],"default":null}`)},
	"symbol added":                {enum(`"A","B"`), enum(`"A","B","C"`)},
	"symbol taken away":           {enum(`"A","B","C"`), enum(`"A","B"`)},
	"symbol added, default":       {enumDefault(`"A","B"`), enumDefault(`"A","B","C"`)},
	"symbol taken away, default":  {enumDefault(`"A","B","C"`), enumDefault(`"A","B"`)},
	"enum renamed":                {enum(`"A"`), strings.ReplaceAll(enum(`"A"`), `"E"`, `"F"`)},
	"fixed resized":               {fixed(4), fixed(8)},
	"array of promoted":           {record(list("int")), record(list("long"))},
	"array of other":              {record(list("int")), record(list("string"))},
	"map of promoted":             {record(dictionary("int")), record(dictionary("long"))},
	"map of other":                {record(dictionary("long")), record(dictionary("int"))},
	"record renamed":              {record(aInt), strings.ReplaceAll(record(aInt), `"R"`, `"S"`)},
	"record in another namespace": {record(aInt), strings.ReplaceAll(record(aInt), `"n"`, `"m"`)},
	"nested field with default":   {record(nested(aInt)), record(nested(aInt + "," + bDefault))},
	"nested field without":        {record(nested(aInt)), record(nested(aInt + `,{"name":"b","type":"int"}`))},
	"logical type":                {record(aLong), record(`{"name":"a","type":{"type":"long","logicalType":"timestamp-millis"}}`)},
	"payload appended":            {record(payloads(one)), record(payloads(one + "," + two))},
	"payload taken away":          {record(payloads(one + "," + two)), record(payloads(one))},
	"payloads in another order":   {record(payloads(one + "," + two)), record(payloads(two + "," + one))},
}

const (
	aStringB = `{"name":"b","type":"string"}`
	one      = `{"type":"record","name":"One","fields":[{"name":"x","type":"int"}]}`
	two      = `{"type":"record","name":"Two","fields":[{"name":"y","type":"string"}]}`
)

func enum(symbols string) string {
	return record(`{"name":"e","type":{"type":"enum","name":"E","symbols":[` + symbols + `]}}`)
}

func enumDefault(symbols string) string {
	return record(`{"name":"e","type":{"type":"enum","name":"E","symbols":[` + symbols + `],"default":"A"}}`)
}

func fixed(size int) string {
	return record(fmt.Sprintf(`{"name":"f","type":{"type":"fixed","name":"F","size":%d}}`, size))
}

func list(items string) string {
	return `{"name":"l","type":{"type":"array","items":"` + items + `"}}`
}

func dictionary(values string) string {
	return `{"name":"m","type":{"type":"map","values":"` + values + `"}}`
}

func nested(fields string) string {
	return `{"name":"i","type":{"type":"record","name":"I","fields":[` + fields + `]}}`
}

func payloads(branches string) string { return `{"name":"payload","type":[` + branches + `]}` }

// Both registries let the same schemas follow each other, at every level.
func TestBothRegistriesJudgeCompatibilityAlike(t *testing.T) {
	t.Parallel()
	p := startPair(t)
	compatible := map[bool]int{}
	for name, e := range evolutions {
		for _, level := range []string{"NONE", "BACKWARD", "BACKWARD_TRANSITIVE", "FORWARD", "FORWARD_TRANSITIVE", "FULL", "FULL_TRANSITIVE"} {
			subject := url.PathEscape(name + " " + level)
			var verdicts [2]answer
			for i, base := range []string{p.ours, p.theirs} {
				for _, step := range [][3]string{
					{"POST", "/subjects/" + subject + "/versions", quoted(e[0])},
					{"PUT", "/config/" + subject, `{"compatibility":"` + level + `"}`},
				} {
					if a := p.ask(base, map[float64]int{}, step[0], step[1], step[2]); a.status != http.StatusOK {
						t.Fatalf("%s %s at %s: %+v", step[0], step[1], base, a)
					}
				}
				verdicts[i] = p.ask(base, nil, "POST", "/compatibility/subjects/"+subject+"/versions/latest", quoted(e[1]))
			}
			if !reflect.DeepEqual(verdicts[0], verdicts[1]) {
				t.Errorf("%s at %s: ours %+v, theirs %+v", name, level, verdicts[0], verdicts[1])
			}
			compatible[reflect.DeepEqual(verdicts[0].body, map[string]any{"is_compatible": true})]++
		}
	}
	if compatible[true] < 100 || compatible[false] < 50 {
		t.Errorf("%v: both verdicts must occur often, or the registries were not asked", compatible)
	}
}
