package registry

import (
	"net/http"
	"strings"
	"testing"
)

// Clients write the same schema in different ways: Java as its parser prints it, Python as the file has it. All find the same id.
func TestOneSchemaHoweverItIsWritten(t *testing.T) {
	t.Parallel()
	s := start(t, &memoryLog{})
	written := []string{
		`{"type":"record","name":"R","namespace":"n","fields":[{"name":"a","type":"int"},{"name":"c","type":{"type":"enum","name":"C","symbols":["X"]}},{"name":"d","type":"C"}]}`,
		`{"name":"R","type":"record","namespace":"n","fields":[{"type":"int","name":"a"},{"name":"c","type":{"type":"enum","name":"C","symbols":["X"]}},{"name":"d","type":"C"}]}`,
		`{"type":"record","name":"n.R","fields":[{"name":"a","type":{"type":"int"},"order":"ascending"},{"name":"c","type":{"type":"enum","name":"n.C","symbols":["X"],"aliases":[]}},{"name":"d","type":"n.C"}]}`,
		`{"type":"record","name":"n.R","namespace":"ignored","fields":[{"name":"a","type":"int","aliases":[]},{"name":"c","type":{"type":"enum","name":"C","namespace":"n","symbols":["X"]}},{"name":"d","type":"n.C"}]}`,
	}
	for _, text := range written {
		for _, query := range []string{"", "?normalize=true", "?normalize=True"} {
			s.want("POST", "/subjects/one/versions"+query, body(text), 200, `{"id":1}`)
			s.want("POST", "/compatibility/subjects/one/versions"+query, body(text), 200, `{"is_compatible":true}`)
			if status, raw := s.do("POST", "/subjects/one"+query, body(text)); status != 200 || !strings.Contains(raw, `"version":1,"id":1`) {
				t.Errorf("look-up of %s: %d %s", text, status, raw)
			}
		}
	}
	s.want("GET", "/subjects/one/versions", "", 200, `[1]`)
	s.want("GET", "/subjects/one/versions/1/schema", "", 200, written[0])
	for _, other := range []string{ // what carries a meaning makes another schema
		strings.Replace(written[0], `"name":"a"`, `"name":"a","doc":"a number"`, 1),
		strings.Replace(written[0], `"name":"a"`, `"name":"a","default":7`, 1),
		strings.Replace(written[0], `"name":"a"`, `"name":"a","order":"descending"`, 1),
		strings.Replace(written[0], `"name":"R"`, `"name":"R","aliases":["Q"]`, 1),
		strings.Replace(written[0], `{"name":"d","type":"C"}`, `{"name":"d","type":{"type":"C","pii":true}}`, 1),
	} {
		s.wantFault("POST", "/subjects/one", body(other), 404, 40403)
	}
	// The name of a type without a namespace stays without one.
	s.want("POST", "/subjects/two/versions?normalize=true", body(`{"type":"record","name":"n.O","fields":[{"name":"i","type":{"type":"record","name":"I","namespace":"","fields":[]}}]}`), 200, `{"id":2}`)
	s.want("GET", "/schemas/ids/2/schema", "", 200, `{"fields":[{"name":"i","type":{"fields":[],"name":"I","namespace":"","type":"record"}}],"name":"n.O","type":"record"}`)
}

func TestNormalisationCanBeConfigured(t *testing.T) {
	t.Parallel()
	log := &memoryLog{}
	s := start(t, log)
	text, normal := `{"type":"record","name":"R","namespace":"n","fields":[]}`, `{"fields":[],"name":"n.R","type":"record"}`
	s.want("PUT", "/config/one", `{"normalize":true}`, 200, `{"normalize":true}`)
	s.want("GET", "/config/one", "", 200, `{"normalize":true}`)
	s.want("GET", "/config/one?defaultToGlobal=true", "", 200, `{"compatibilityLevel":"BACKWARD","normalize":true}`)
	s.want("PUT", "/config/one", `{"compatibility":"FULL"}`, 200, `{"compatibility":"FULL","normalize":true}`)
	s.want("POST", "/subjects/one/versions", body(text), 200, `{"id":1}`)
	s.want("GET", "/subjects/one/versions/1/schema", "", 200, normal)
	s.want("PUT", "/config", `{"normalize":true,"compatibility":null}`, 200, `{"normalize":true}`)
	s.wantFault("POST", "/subjects/two/versions", body(`"n.S"`), 422, 42201)
	s.want("POST", "/subjects/two/versions", body(strings.ReplaceAll(text, `"R"`, `"S"`)), 200, `{"id":2}`)
	s.want("GET", "/schemas/ids/2/schema", "", 200, strings.ReplaceAll(normal, "n.R", "n.S"))
	log.compact()
	s = start(t, log)
	s.want("GET", "/config/one", "", 200, `{"compatibilityLevel":"FULL","normalize":true}`)
	s.want("DELETE", "/config/one", "", 200, `{"compatibilityLevel":"FULL","normalize":true}`)
	s.wantFault("DELETE", "/config/one", "", 404, 40401)
	s.want("GET", "/config/one?defaultToGlobal=true", "", 200, `{"compatibilityLevel":"BACKWARD","normalize":true}`)
	s.want("PUT", "/config/one", `{"normalize":false,"compatibilityLevel":"none"}`, 200, `{"compatibility":"NONE","normalize":false}`)
	s.want("DELETE", "/config", "", 200, `{"compatibilityLevel":"BACKWARD","normalize":true}`)
	s.wantFault("PUT", "/config", `{}`, 422, 42203)
	s.wantFault("PUT", "/config", `{"defaultRuleSet":{}}`, 422, 422, "defaultRuleSet")
}

func TestContextsAndNames(t *testing.T) {
	t.Parallel()
	s := start(t, &memoryLog{})
	s.want("POST", "/subjects/:.:one/versions", body(record(a)), 200, `{"id":1}`)
	s.want("GET", "/subjects", "", 200, `["one"]`)
	s.want("GET", "/subjects/:.:one/versions", "", 200, `[1]`)
	for _, name := range []string{":.other:one", "__GLOBAL", "__EMPTY", "a%00b", strings.Repeat("x", 2000)} {
		s.wantFault("POST", "/subjects/"+name+"/versions", body(record(a)), 422, 42208)
		s.wantFault("PUT", "/config/"+name, `{"compatibility":"FULL"}`, 422, 42208)
		s.wantFault("PUT", "/mode/"+name, `{"mode":"READONLY"}`, 422, 42208)
	}
}

func TestDeletedVersionsCanBeListed(t *testing.T) {
	t.Parallel()
	s := start(t, &memoryLog{})
	for i, schema := range []string{record(a), record(a + "," + bDefault), record(aLong)} {
		s.want("POST", "/subjects/one/versions", body(schema), 200, `{"id":`+string(rune('1'+i))+`}`)
	}
	s.want("GET", "/subjects/one/versions?deletedOnly=true", "", 200, `[]`)
	s.want("DELETE", "/subjects/one/versions/2", "", 200, `2`)
	s.want("GET", "/subjects/one/versions", "", 200, `[1,3]`)
	s.want("GET", "/subjects/one/versions?deleted=true&offset=1&limit=1", "", 200, `[2]`)
	s.want("GET", "/subjects/one/versions?deletedOnly=true", "", 200, `[2]`)
	s.wantFault("GET", "/subjects/none/versions/x", "", 422, 42202)
	s.want("GET", "/subjects/one/metadata", "", 200, `{"subject":"one","version":3,"id":3,"schema":`+quote(record(aLong))+`}`)
	s.wantFault("GET", "/subjects/one/metadata?key=owner&value=me", "", 404, 40403)
	s.wantFault("GET", "/subjects/none/metadata", "", 404, 40401)
	s.want("DELETE", "/subjects/one", "", 200, `[1,3]`)
	s.wantFault("GET", "/subjects/one/versions/latest", "", 404, 40401)
	s.want("GET", "/subjects/one/versions/latest/schema?deleted=true", "", 200, record(aLong))
}

func TestReferencesCanBePutIntoTheText(t *testing.T) {
	t.Parallel()
	s := start(t, &memoryLog{})
	s.want("POST", "/subjects/inner/versions", body(`{"type":"enum","name":"n.E","symbols":["X"]}`), 200, `{"id":1}`)
	outer := body(record(`{"name":"e","type":"n.E"}`), `,"references":[{"name":"n.E","subject":"inner","version":1}]`)
	s.want("POST", "/subjects/outer/versions", outer, 200, `{"id":2}`)
	whole := `{"fields":[{"name":"e","type":{"name":"n.E","symbols":["X"],"type":"enum"}}],"name":"R","namespace":"n","type":"record"}`
	for _, path := range []string{"/schemas/ids/2", "/subjects/outer/versions/1"} {
		if _, raw := s.do("GET", path+"?format=resolved", ""); !strings.Contains(raw, quote(whole)) || !strings.Contains(raw, `"references"`) {
			t.Errorf("%s: %s", path, raw)
		}
		s.want("GET", path+"/schema?format=resolved", "", 200, whole)
	}
	s.want("GET", "/subjects/inner/versions/1/referencedby", "", 200, `[2]`)
	s.want("DELETE", "/subjects/outer", "", 200, `[1]`)
	s.want("GET", "/subjects/inner/versions/1/referencedby", "", 200, `[]`)
	s.want("GET", "/subjects/inner/versions/1/referencedby?deleted=true", "", 200, `[2]`)
}

func TestReadOnlyForAll(t *testing.T) {
	t.Parallel()
	s := start(t, &memoryLog{})
	s.want("PUT", "/mode/one", `{"mode":"readwrite"}`, 200, `{"mode":"READWRITE"}`)
	s.want("PUT", "/mode", `{"mode":"READONLY"}`, 200, `{"mode":"READONLY"}`)
	s.want("POST", "/subjects/one/versions", body(record(a)), 200, `{"id":1}`)
	s.wantFault("POST", "/subjects/two/versions", body(record(a)), 422, 42205)
	s.want("PUT", "/mode", `{"mode":"READONLY_OVERRIDE"}`, 200, `{"mode":"READONLY_OVERRIDE"}`)
	s.wantFault("POST", "/subjects/one/versions", body(record(aLong)), 422, 42205)
	s.wantFault("DELETE", "/mode/two", "", 404, 40401)
	s.want("DELETE", "/mode", "", 200, `{"mode":"READONLY_OVERRIDE"}`)
	s.want("POST", "/subjects/one/versions", body(record(aLong)), 200, `{"id":2}`)
}

func TestMediaTypes(t *testing.T) {
	t.Parallel()
	s := start(t, &memoryLog{})
	const own = "application/vnd.schemaregistry.v1+json"
	for _, c := range []struct {
		accept, content string
		status          int
		answer          string
	}{
		{"", "", 200, own},
		{"*/*", own, 200, own},
		{"application/json", "application/json", 200, "application/json"},
		{"application/vnd.schemaregistry+json; qs=0.9, application/json; qs=0.5", own + "; charset=utf-8", 200, "application/vnd.schemaregistry+json"},
		{own + "; q=0, application/json", "application/octet-stream", 200, "application/json"},
		{"text/html", own, 406, own},
		{"application/json", "application/x-www-form-urlencoded", 415, own},
		{"application/json", "no media type", 415, own},
	} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+"/subjects/one/versions", strings.NewReader(body(record(a))))
		if err != nil {
			t.Fatal(err)
		}
		for name, value := range map[string]string{"Accept": c.accept, "Content-Type": c.content} {
			if value != "" {
				request.Header.Set(name, value)
			}
		}
		answer, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
		if got := answer.Header.Get("Content-Type"); answer.StatusCode != c.status || got != c.answer {
			t.Errorf("%+v: %s, %s", c, answer.Status, got)
		}
	}
	s.want("GET", "/v1/metadata/version", "", 200, `{"commitId":"","version":"7.9.0"}`)
	s.want("POST", "/", "{}", 200, `{}`)
}
