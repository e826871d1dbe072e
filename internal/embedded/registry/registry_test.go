package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/sr"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/regent-infra/regent/internal/avrocodec"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func compatible(writer, reader string) error { return avrocodec.Compatible(reader, writer) }

// memoryLog is a log in memory, as a compacted topic would be.
type memoryLog struct {
	mu      sync.Mutex
	records [][2][]byte
	fail    error
}

func (l *memoryLog) Append(_ context.Context, key, value []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail != nil {
		return l.fail
	}
	l.records = append(l.records, [2][]byte{key, value})
	return nil
}

// compact drops what a later record of the same key replaces, and tombstones.
func (l *memoryLog) compact() {
	last := make(map[string]int)
	for i, r := range l.records {
		last[string(r[0])] = i
	}
	var kept [][2][]byte
	for i, r := range l.records {
		if last[string(r[0])] == i && r[1] != nil {
			kept = append(kept, r)
		}
	}
	l.records = kept
}

type server struct {
	*testing.T
	log *memoryLog
	reg *Registry
	url string
}

// start returns a registry over a log.
func start(t *testing.T, log *memoryLog) *server {
	t.Helper()
	reg, err := New(Config{Log: log, Compatible: compatible, MaxBytes: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range log.records {
		if err := reg.Load(r[0], r[1]); err != nil {
			t.Fatalf("load %s: %v", r[0], err)
		}
	}
	hs := httptest.NewServer(reg.Handler())
	t.Cleanup(hs.Close)
	return &server{t, log, reg, hs.URL}
}

// do sends a request and returns status and body.
func (s *server) do(method, path, body string) (int, string) {
	s.Helper()
	req, err := http.NewRequestWithContext(s.Context(), method, s.url+path, strings.NewReader(body))
	if err != nil {
		s.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		s.Fatal(err)
	}
	if ct := resp.Header.Get("Content-Type"); ct != "application/vnd.schemaregistry.v1+json" {
		s.Errorf("%s %s: content type %q", method, path, ct)
	}
	return resp.StatusCode, strings.TrimSpace(string(raw))
}

// want sends a request and compares the answer.
func (s *server) want(method, path, body string, status int, answer string) {
	s.Helper()
	got, raw := s.do(method, path, body)
	if got != status || raw != answer {
		s.Errorf("%s %s %s: %d %s, want %d %s", method, path, body, got, raw, status, answer)
	}
}

// wantFault sends a request and checks that it is refused with a code and words.
func (s *server) wantFault(method, path, body string, status, code int, words ...string) {
	s.Helper()
	got, raw := s.do(method, path, body)
	var f struct {
		Code    int    `json:"error_code"`
		Message string `json:"message"`
	}
	if err := json.Unmarshal([]byte(raw), &f); err != nil {
		s.Errorf("%s %s: answer %q is not JSON", method, path, raw)
	}
	if got != status || f.Code != code {
		s.Errorf("%s %s %s: %d code %d (%s), want %d code %d", method, path, body, got, f.Code, f.Message, status, code)
	}
	for _, w := range words {
		if !strings.Contains(f.Message, w) {
			s.Errorf("%s %s: message %q does not say %q", method, path, f.Message, w)
		}
	}
}

func body(schema string, more ...string) string {
	b, err := json.Marshal(schema)
	if err != nil {
		panic(err)
	}
	return `{"schema":` + string(b) + strings.Join(more, "") + `}`
}

func record(fields string) string {
	return `{"type":"record","name":"R","namespace":"n","fields":[` + fields + `]}`
}

const (
	a         = `{"name":"a","type":"int"}`
	aLong     = `{"name":"a","type":"long"}`
	aString   = `{"name":"a","type":"string"}`
	bDefault  = `{"name":"b","type":"int","default":0}`
	bRequired = `{"name":"b","type":"int"}`
)

func TestSubjectsVersionsAndIDs(t *testing.T) {
	s := start(t, &memoryLog{})
	s.want("GET", "/subjects", "", 200, `[]`)
	s.want("POST", "/subjects/one/versions", body(record(a)), 200, `{"id":1}`)
	s.want("POST", "/subjects/one/versions", body(record(a)), 200, `{"id":1}`)
	s.want("POST", "/subjects/one/versions", body(" "+strings.ReplaceAll(record(a), ",", ", ")), 200, `{"id":1}`)
	s.want("POST", "/subjects/two/versions", body(record(a)), 200, `{"id":1}`)
	s.want("POST", "/subjects/one/versions", body(record(a+","+bDefault)), 200, `{"id":2}`)
	s.want("GET", "/subjects", "", 200, `["one","two"]`)
	s.want("GET", "/subjects?subjectPrefix=t", "", 200, `["two"]`)
	s.want("GET", "/subjects/one/versions", "", 200, `[1,2]`)
	s.want("GET", "/subjects/one/versions/1/schema", "", 200, record(a))
	s.want("GET", "/subjects/one/versions/latest/schema", "", 200, record(a+","+bDefault))
	s.want("GET", "/schemas/ids/1/versions", "", 200, `[{"subject":"one","version":1},{"subject":"two","version":1}]`)
	s.want("GET", "/schemas/ids/1/subjects", "", 200, `["one","two"]`)
	s.want("GET", "/schemas/ids/2/schema", "", 200, record(a+","+bDefault))
	s.want("GET", "/schemas/types", "", 200, `["AVRO"]`)
	s.want("GET", "/contexts", "", 200, `["."]`)
	s.want("GET", "/", "", 200, `{}`)
	_, raw := s.do("POST", "/subjects/one", body(record(a)))
	if want := `{"subject":"one","version":1,"id":1,"schema":` + quote(record(a)) + `}`; raw != want {
		t.Errorf("lookup: %s, want %s", raw, want)
	}
	if _, raw := s.do("GET", "/schemas/ids/1?fetchMaxId=true", ""); raw != `{"maxId":2,"schema":`+quote(record(a))+`}` {
		t.Errorf("by id: %s", raw)
	}
	sorted := `{"fields":[],"name":"S","type":"record"}`
	s.want("POST", "/subjects/sorted/versions?normalize=true", body(`{"type":"record","name":"S","fields":[]}`), 200, `{"id":3}`)
	s.want("GET", "/subjects/sorted/versions/1/schema", "", 200, sorted)
	s.want("POST", "/subjects/sorted/versions?normalize=true", body(`{"name":"S","type":"record","fields":[]}`), 200, `{"id":3}`)
	s.want("GET", "/subjects/a%2Fb/versions", "", 404, `{"error_code":40401,"message":"Subject 'a/b' not found."}`)
}

func quote(v string) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v)
	return strings.TrimSpace(b.String())
}

func TestRefusals(t *testing.T) {
	s := start(t, &memoryLog{})
	s.want("POST", "/subjects/one/versions", body(record(a)), 200, `{"id":1}`)
	s.wantFault("POST", "/subjects/one/versions", body(`{"type":"recard"}`), 422, 42201, "Invalid schema")
	s.wantFault("POST", "/subjects/one/versions", body(`{"type":`), 422, 42201, "schema is not JSON")
	s.wantFault("POST", "/subjects/one/versions", body(``), 422, 42201, "it is empty")
	s.wantFault("POST", "/subjects/one/versions", body(`{}`, `,"schemaType":"PROTOBUF"`), 422, 42201, "Invalid schema type PROTOBUF: this registry keeps AVRO only")
	s.wantFault("POST", "/subjects/one/versions", body(record(a), `,"ruleSet":{}`), 422, 42201, "metadata, ruleSet and propagateSchemaTags are not supported")
	s.wantFault("POST", "/subjects/one/versions", `{"schemas":""}`, 422, 422, `unknown field "schemas"`)
	s.wantFault("POST", "/subjects/one/versions", `not json`, 422, 422, "Request body")
	s.wantFault("POST", "/subjects/one/versions", body(record(a))+"{}", 422, 422, "something follows the JSON object")
	s.wantFault("POST", "/subjects/one/versions", body(strings.Repeat(" ", 70<<10)), 413, 413, "up to 65536 bytes are accepted")
	s.wantFault("POST", "/subjects/one/versions", body(record(aString)), 409, 409, `incompatible with an earlier schema for subject "one"`, "cannot read data of version 1 (BACKWARD)")
	s.wantFault("POST", "/subjects/one/versions", body(record(aLong), `,"id":7`), 422, 42205, "not in import mode")
	s.wantFault("GET", "/subjects/none/versions", "", 404, 40401, "Subject 'none' not found")
	s.wantFault("POST", "/subjects/none", body(record(a)), 404, 40401)
	s.wantFault("POST", "/subjects/one", body(record(bRequired)), 404, 40403)
	s.wantFault("GET", "/subjects/one/versions/9", "", 404, 40402, "Version 9 not found")
	s.wantFault("GET", "/subjects/one/versions/x", "", 422, 42202, "'x' is not a valid version id")
	s.wantFault("GET", "/subjects/one/versions/0", "", 422, 42202)
	s.wantFault("GET", "/schemas/ids/9", "", 404, 40403, "Schema 9 not found")
	s.wantFault("GET", "/schemas/ids/1?format=odd", "", 400, 400, "resolved, or nothing")
	s.wantFault("PUT", "/config", `{"compatibility":"SOME"}`, 422, 42203, `"SOME"`)
	s.wantFault("PUT", "/mode", `{"mode":"SOME"}`, 422, 42204)
	s.wantFault("GET", "/config/one", "", 404, 40408)
	s.wantFault("GET", "/mode/one", "", 404, 40409)
	s.wantFault("GET", "/nowhere", "", 404, 404)
	s.wantFault("PATCH", "/subjects", "", 404, 404)
}

func TestCompatibilityLevels(t *testing.T) {
	// Each case registers two versions without a check, then asks for a third at a level.
	v1, v2 := record(aLong+","+bDefault), record(aLong)
	for _, c := range []struct {
		level Level
		next  string
		fits  bool
	}{
		{Backward, record(aLong + "," + bDefault), true},
		{Backward, record(aLong + "," + bRequired), false},
		{Backward, record(``), true},                     // reads old data by leaving a out
		{Backward, record(a), false},                     // a long does not fit into an int
		{Forward, record(aLong + "," + bRequired), true}, // the old reader leaves b out
		{Forward, record(``), false},                     // the old reader needs a
		{Forward, record(a), true},                       // an int fits into a long
		{Full, record(aLong + "," + bDefault), true},
		{Full, record(a), false},
		{Full, record(aLong + "," + bRequired), false},
		{BackwardTransitive, record(aLong + "," + bRequired), false},
		{ForwardTransitive, record(a), true},
		{FullTransitive, record(aLong + `,{"name":"b","type":"string","default":""}`), false}, // fits v2, not v1
		{Full, record(aLong + `,{"name":"b","type":"string","default":""}`), true},
		{BackwardTransitive, record(aLong + `,{"name":"b","type":"string","default":""}`), false},
		{Backward, record(aLong + `,{"name":"b","type":"string","default":""}`), true},
		{ForwardTransitive, record(aLong + `,{"name":"b","type":"string","default":""}`), false},
		{Forward, record(aLong + `,{"name":"b","type":"string","default":""}`), true},
		{None, `"string"`, true},
	} {
		t.Run(fmt.Sprintf("%s %s", c.level, c.next), func(t *testing.T) {
			s := start(t, &memoryLog{})
			s.want("PUT", "/config/x", `{"compatibility":"NONE"}`, 200, `{"compatibility":"NONE"}`)
			s.want("POST", "/subjects/x/versions", body(v1), 200, `{"id":1}`)
			s.want("POST", "/subjects/x/versions", body(v2), 200, `{"id":2}`)
			s.want("PUT", "/config/x", fmt.Sprintf(`{"compatibility":%q}`, strings.ToLower(string(c.level))), 200, fmt.Sprintf(`{"compatibility":%q}`, c.level))
			s.want("POST", "/compatibility/subjects/x/versions", body(c.next), 200, fmt.Sprintf(`{"is_compatible":%t}`, c.fits))
			known := c.next == v1
			if c.fits {
				id := 3
				if known {
					id = 1
				}
				s.want("POST", "/subjects/x/versions", body(c.next), 200, fmt.Sprintf(`{"id":%d}`, id))
			} else {
				s.wantFault("POST", "/subjects/x/versions", body(c.next), 409, 409, string(c.level))
			}
		})
	}
}

func TestCompatibilityWithOneVersion(t *testing.T) {
	s := start(t, &memoryLog{})
	s.want("PUT", "/config", `{"compatibility":"NONE"}`, 200, `{"compatibility":"NONE"}`)
	s.want("POST", "/subjects/x/versions", body(record(aString)), 200, `{"id":1}`)
	s.want("POST", "/subjects/x/versions", body(record(a)), 200, `{"id":2}`)
	s.want("PUT", "/config", `{"compatibility":"BACKWARD"}`, 200, `{"compatibility":"BACKWARD"}`)
	s.want("POST", "/compatibility/subjects/x/versions/latest", body(record(aLong)), 200, `{"is_compatible":true}`)
	s.want("POST", "/compatibility/subjects/x/versions/1", body(record(aLong)), 200, `{"is_compatible":false}`)
	_, raw := s.do("POST", "/compatibility/subjects/x/versions/1?verbose=true", body(record(aLong)))
	if !strings.Contains(raw, "cannot read data of version 1") {
		t.Errorf("verbose answer: %s", raw)
	}
	s.want("POST", "/compatibility/subjects/none/versions/latest", body(record(a)), 200, `{"is_compatible":true}`)
	s.wantFault("POST", "/compatibility/subjects/none/versions/1", body(record(a)), 404, 40402)
	s.wantFault("POST", "/compatibility/subjects/x/versions/9", body(record(a)), 404, 40402)
	s.wantFault("POST", "/compatibility/subjects/x/versions/0", body(record(a)), 422, 42202)
	s.wantFault("POST", "/compatibility/subjects/x/versions/1", body(`{"type":"recard"}`), 422, 42201)
	// Who asks for reasons is told this one, too. Python's client writes True.
	if _, raw := s.do("POST", "/compatibility/subjects/x/versions/1?verbose=True", body(`{"type":"recard"}`)); !strings.HasPrefix(raw, `{"is_compatible":false,"messages":["Invalid schema: `) {
		t.Errorf("verbose answer for an invalid schema: %s", raw)
	}
	s.want("POST", "/compatibility/subjects/none/versions", body(record(a)), 200, `{"is_compatible":true}`)
}

func TestDeletion(t *testing.T) {
	log := &memoryLog{}
	s := start(t, log)
	s.want("POST", "/subjects/x/versions", body(record(a)), 200, `{"id":1}`)
	s.want("POST", "/subjects/x/versions", body(record(aLong)), 200, `{"id":2}`)
	s.wantFault("DELETE", "/subjects/x/versions/1?permanent=true", "", 404, 40407)
	s.want("DELETE", "/subjects/x/versions/1", "", 200, `1`)
	s.wantFault("DELETE", "/subjects/x/versions/1", "", 404, 40406)
	s.wantFault("GET", "/subjects/x/versions/1", "", 404, 40402)
	s.want("GET", "/subjects/x/versions/1/schema?deleted=true", "", 200, record(a))
	s.want("GET", "/subjects/x/versions", "", 200, `[2]`)
	s.want("GET", "/subjects/x/versions?deleted=true", "", 200, `[1,2]`)
	s.want("GET", "/schemas/ids/1/schema", "", 200, record(a))
	s.wantFault("DELETE", "/subjects/x?permanent=true", "", 404, 40405)
	s.want("PUT", "/config/x", `{"compatibility":"FULL"}`, 200, `{"compatibility":"FULL"}`)
	s.want("DELETE", "/subjects/x", "", 200, `[2]`)
	s.wantFault("GET", "/config/x", "", 404, 40408)
	s.wantFault("DELETE", "/subjects/x", "", 404, 40404)
	s.want("GET", "/subjects", "", 200, `[]`)
	s.want("GET", "/subjects?deleted=true", "", 200, `["x"]`)
	s.want("GET", "/subjects?deletedOnly=true", "", 200, `["x"]`)
	// A deleted subject comes back with the next version, and the schema keeps its id.
	s.want("POST", "/subjects/x/versions", body(record(a)), 200, `{"id":1}`)
	s.want("GET", "/subjects/x/versions", "", 200, `[3]`)
	s.want("DELETE", "/subjects/x", "", 200, `[3]`)
	s.want("DELETE", "/subjects/x?permanent=true", "", 200, `[1,2,3]`)
	s.wantFault("GET", "/subjects/x/versions?deleted=true", "", 404, 40401)
	s.want("GET", "/schemas/ids/2/schema", "", 200, record(aLong))

	// After a restart on the compacted log ids and versions are still not given twice.
	log.compact()
	s = start(t, log)
	s.wantFault("GET", "/schemas/ids/2", "", 404, 40403)
	s.want("POST", "/subjects/x/versions", body(record(bDefault)), 200, `{"id":3}`)
	s.want("GET", "/subjects/x/versions", "", 200, `[4]`)
}

func TestReferences(t *testing.T) {
	log := &memoryLog{}
	s := start(t, log)
	ref := `,"references":[{"name":"n.R","subject":"inner","version":1},{"name":"Plain","subject":"plain","version":1}]`
	outer := `{"type":"record","name":"Outer","namespace":"n","fields":[{"name":"one","type":"R"},{"name":"two","type":["null","n.R"]},{"name":"p","type":"Plain"}]}`
	s.wantFault("POST", "/subjects/outer/versions", body(outer, ref), 422, 42201, `reference "n.R": subject "inner" has no version 1`)
	s.want("POST", "/subjects/inner/versions", body(record(a)), 200, `{"id":1}`)
	s.want("POST", "/subjects/plain/versions", body(`{"type":"enum","name":"Plain","symbols":["X"]}`), 200, `{"id":2}`)
	s.want("POST", "/subjects/outer/versions", body(outer, ref), 200, `{"id":3}`)
	s.want("POST", "/subjects/outer/versions", body(outer, ref), 200, `{"id":3}`)
	s.want("GET", "/subjects/inner/versions/1/referencedby", "", 200, `[3]`)
	s.wantFault("DELETE", "/subjects/inner", "", 422, 42206, "from schema ids [3]")
	s.wantFault("DELETE", "/subjects/inner/versions/1", "", 422, 42206)
	_, raw := s.do("GET", "/schemas/ids/3", "")
	if !strings.Contains(raw, `"references":[{"name":"n.R","subject":"inner","version":1}`) {
		t.Errorf("references are not given back: %s", raw)
	}
	_, raw = s.do("GET", "/schemas/ids/3?format=resolved", "")
	var resolved struct{ Schema string }
	if err := json.Unmarshal([]byte(raw), &resolved); err != nil {
		t.Fatal(err)
	}
	if err := compatible(resolved.Schema, resolved.Schema); err != nil {
		t.Errorf("the resolved schema is not complete: %v: %s", err, resolved.Schema)
	}
	// A change of the referenced type is seen through the reference.
	s.want("PUT", "/config/inner", `{"compatibility":"NONE"}`, 200, `{"compatibility":"NONE"}`)
	s.want("POST", "/subjects/inner/versions", body(record(aString)), 200, `{"id":4}`)
	s.wantFault("POST", "/subjects/outer/versions", body(outer, strings.Replace(ref, `"inner","version":1`, `"inner","version":2`, 1)), 409, 409)
	s = start(t, log)
	s.want("POST", "/subjects/outer/versions", body(outer, ref), 200, `{"id":3}`)
}

func TestModes(t *testing.T) {
	s := start(t, &memoryLog{})
	s.want("GET", "/mode", "", 200, `{"mode":"READWRITE"}`)
	s.want("PUT", "/mode", `{"mode":"READONLY"}`, 200, `{"mode":"READONLY"}`)
	s.wantFault("POST", "/subjects/x/versions", body(record(a)), 422, 42205, "read-only mode")
	s.want("PUT", "/mode/x", `{"mode":"IMPORT"}`, 200, `{"mode":"IMPORT"}`)
	s.wantFault("POST", "/subjects/x/versions", body(record(a)), 422, 42205, "an id must be given")
	s.want("POST", "/subjects/x/versions", body(record(a), `,"id":70,"version":5`), 200, `{"id":70}`)
	s.wantFault("POST", "/subjects/x/versions", body(record(aString), `,"id":70,"version":6`), 422, 42205, "Overwrite new schema with id 70")
	s.want("GET", "/mode/x", "", 200, `{"mode":"IMPORT"}`)
	s.want("DELETE", "/mode/x", "", 200, `{"mode":"IMPORT"}`)
	s.want("DELETE", "/mode", "", 200, `{"mode":"READONLY"}`)
	s.want("POST", "/subjects/x/versions", body(record(aLong)), 200, `{"id":71}`)
	s.want("GET", "/subjects/x/versions", "", 200, `[5,6]`)
	s.wantFault("PUT", "/mode", `{"mode":"IMPORT"}`, 422, 42205, "force=true")
	s.want("PUT", "/mode?force=true", `{"mode":"IMPORT"}`, 200, `{"mode":"IMPORT"}`)
}

func TestStopsWritingAfterAWriteOfUnknownOutcome(t *testing.T) {
	log := &memoryLog{}
	s := start(t, log)
	s.want("POST", "/subjects/x/versions", body(record(a)), 200, `{"id":1}`)
	log.fail = errors.New("no broker")
	s.wantFault("POST", "/subjects/x/versions", body(record(aLong)), 500, 50001, "no broker")
	log.fail = nil
	s.wantFault("POST", "/subjects/x/versions", body(record(aLong)), 500, 50001, "unknown outcome", "restart the registry")
	s.want("POST", "/subjects/x/versions", body(record(a)), 200, `{"id":1}`)
	s.want("GET", "/subjects/x/versions", "", 200, `[1]`)
}

func TestRefusesALogThatItDoesNotKnow(t *testing.T) {
	reg, err := New(Config{Log: &memoryLog{}, Compatible: compatible})
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{
		`{"keytype":"DEK","magic":0}`: `key type "DEK" is unknown`,
		`nonsense`:                    "read key",
		`{"keytype":"SCHEMA","subject":"x","magic":1}`: "without version",
	} {
		if err := reg.Load([]byte(key), []byte(`{}`)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("load %s: %v, want %q", key, err, want)
		}
	}
}

func TestFranzGoClient(t *testing.T) {
	s := start(t, &memoryLog{})
	cl, err := sr.NewClient(sr.URLs(s.url))
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	one, err := cl.CreateSchema(ctx, "x", sr.Schema{Schema: record(a)})
	if err != nil || one.ID != 1 || one.Version != 1 {
		t.Fatalf("create: %+v %v", one, err)
	}
	if _, err := cl.CreateSchema(ctx, "x", sr.Schema{Schema: record(aString)}); err == nil {
		t.Error("an incompatible schema was registered")
	}
	if found, err := cl.LookupSchema(ctx, "x", sr.Schema{Schema: record(a)}); err != nil || found.ID != 1 {
		t.Errorf("lookup: %+v %v", found, err)
	}
	if r := cl.SetCompatibility(ctx, sr.SetCompatibility{Level: sr.CompatFull}, "x"); r[0].Err != nil || r[0].Level != sr.CompatFull {
		t.Errorf("set compatibility: %+v", r[0])
	}
	if r := cl.Compatibility(ctx, "x", sr.GlobalSubject); r[0].Level != sr.CompatFull || r[1].Level != sr.CompatBackward {
		t.Errorf("compatibility: %+v", r)
	}
	if r, err := cl.CheckCompatibility(ctx, "x", -1, sr.Schema{Schema: record(aLong)}); err != nil || r.Is {
		t.Errorf("check: %+v %v", r, err)
	}
	if all, err := cl.AllSchemas(ctx); err != nil || len(all) != 1 {
		t.Errorf("all: %+v %v", all, err)
	}
	if v, err := cl.DeleteSubject(ctx, "x", sr.SoftDelete); err != nil || !slices.Equal(v, []int{1}) {
		t.Errorf("delete: %v %v", v, err)
	}
	if v, err := cl.DeleteSubject(ctx, "x", sr.HardDelete); err != nil || !slices.Equal(v, []int{1}) {
		t.Errorf("delete for good: %v %v", v, err)
	}
	var re *sr.ResponseError
	if _, err := cl.SchemaByVersion(ctx, "x", 1); !errors.As(err, &re) || re.SchemaError() != sr.ErrSubjectNotFound {
		t.Errorf("by version: %v", err)
	}
}

// Whatever is done, a registry that starts on the same log, compacted or not, answers the same, and no id ever names two
// schemas.
func TestRestartChangesNothing(t *testing.T) {
	schemas := []string{record(a), record(aLong), record(aString), record(a + "," + bDefault), `"int"`, `"string"`}
	rapid.Check(t, func(rt *rapid.T) {
		log := &memoryLog{}
		ids := make(map[int]string)
		names := []string{"x", "y"}
		open := func() *Registry {
			reg, err := New(Config{Log: log, Compatible: compatible})
			if err != nil {
				rt.Fatal(err)
			}
			for _, r := range log.records {
				if err := reg.Load(r[0], r[1]); err != nil {
					rt.Fatal(err)
				}
			}
			return reg
		}
		reg := open()
		for range rapid.IntRange(1, 25).Draw(rt, "steps") {
			name := rapid.SampledFrom(names).Draw(rt, "subject")
			switch rapid.IntRange(0, 5).Draw(rt, "step") {
			case 0, 1, 2:
				text := rapid.SampledFrom(schemas).Draw(rt, "schema")
				id, err := reg.register(t.Context(), name, schemaRequest{Schema: text}, false)
				if err != nil {
					continue
				}
				if old, used := ids[id]; used && old != text {
					rt.Fatalf("id %d names %s and %s", id, old, text)
				}
				ids[id] = text
			case 3:
				_, _ = reg.deleteSubject(t.Context(), name, rapid.Bool().Draw(rt, "permanent"))
			case 4:
				_, _ = reg.deleteVersion(t.Context(), name, "latest", rapid.Bool().Draw(rt, "permanent"))
			case 5:
				if rapid.Bool().Draw(rt, "compact") {
					log.compact()
				}
				next := open()
				if got, want := next.dump(), reg.dump(); got != want {
					rt.Fatalf("after a restart: %s\nbefore: %s", got, want)
				}
				reg = next
			}
		}
	})
}

// dump describes what is visible.
func (r *Registry) dump() string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var lines []string
	for name, s := range r.subjects {
		for _, v := range s.versions {
			lines = append(lines, fmt.Sprintf("%s %d id %d deleted %t %s", name, v.number, v.id, v.deleted, r.byID[v.id].text))
		}
		lines = append(lines, fmt.Sprintf("%s highest %d", name, s.highest))
	}
	for name, l := range r.levels {
		lines = append(lines, fmt.Sprintf("%s level %s", name, l))
	}
	slices.Sort(lines)
	return fmt.Sprintf("max %d\n%s", r.maxID, strings.Join(lines, "\n"))
}

func FuzzResolve(f *testing.F) {
	f.Add(record(a), "n.R")
	f.Add(`{"type":"array","items":"n.R"}`, "n.R")
	f.Add(`["null",{"type":"map","values":"R"}]`, "R")
	f.Fuzz(func(t *testing.T, text, name string) {
		reg, err := New(Config{Log: &memoryLog{}, Compatible: compatible})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := reg.register(t.Context(), "ref", schemaRequest{Schema: record(a)}, false); err != nil {
			t.Fatal(err)
		}
		_, _ = reg.register(t.Context(), "x", schemaRequest{Schema: text, References: []Reference{{name, "ref", 1}}}, true)
	})
}
