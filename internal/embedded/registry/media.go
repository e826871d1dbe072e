package registry

import (
	"mime"
	"net/http"
	"slices"
	"strings"
)

// mediaTypes are the names under which JSON is spoken here, the preferred one first.
var mediaTypes = []string{contentType, "application/vnd.schemaregistry+json", "application/json"}

// negotiate returns the media type of the answer: the first that the client accepts. It refuses a body in another one, and a client that accepts
// none. Clients that say nothing are served.
func negotiate(hr *http.Request) (string, error) {
	if given := hr.Header.Get("Content-Type"); given != "" && hr.ContentLength != 0 {
		media, _, err := mime.ParseMediaType(given)
		if err != nil || !slices.Contains(mediaTypes, media) && media != "application/octet-stream" {
			return contentType, refuse(http.StatusUnsupportedMediaType, http.StatusUnsupportedMediaType,
				"HTTP 415 Unsupported Media Type: Content-Type is %q, expected %s", given, strings.Join(mediaTypes, " or "))
		}
	}
	accept := strings.Join(hr.Header.Values("Accept"), ",")
	if strings.TrimSpace(accept) == "" {
		return contentType, nil
	}
	for part := range strings.SplitSeq(accept, ",") {
		media, params, err := mime.ParseMediaType(part)
		if err != nil || strings.HasPrefix(params["q"], "0") && strings.Trim(params["q"], "0.") == "" {
			continue
		}
		switch {
		case media == "*/*" || media == "application/*":
			return contentType, nil
		case slices.Contains(mediaTypes, media):
			return media, nil
		}
	}
	return contentType, refuse(http.StatusNotAcceptable, http.StatusNotAcceptable, "HTTP 406 Not Acceptable: expected to accept %s", strings.Join(mediaTypes, " or "))
}
