package netproto

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	keyProduce     = 0
	keyFetch       = 1
	keyShutdown    = 7 // ControlledShutdown: its version 0 has a header without client id
	keyApiVersions = 18

	// headerBytesMin is the smallest request header: API key, version, correlation id.
	headerBytesMin = 8
	// apiKeysMax bounds the tables that are indexed by API key.
	apiKeysMax = 128
)

// apiInfo is what the header needs to know of an API.
type apiInfo struct {
	known    bool
	flexible int16 // first version with tags; -1: none
	last     int16 // last known version
	name     string
}

var apiInfos = buildAPIInfos()

func buildAPIInfos() (infos [apiKeysMax]apiInfo) {
	for key := range int16(apiKeysMax) {
		req := kmsg.RequestForKey(key)
		if req == nil {
			continue
		}
		info := apiInfo{known: true, flexible: -1, last: req.MaxVersion(), name: kmsg.NameForKey(key)}
		for v := int16(0); v <= req.MaxVersion(); v++ {
			if req.SetVersion(v); req.IsFlexible() {
				info.flexible = v
				break
			}
		}
		infos[key] = info
	}
	return infos
}

// infoFor returns what is known of an API key; nil if it is not one of Kafka's.
func infoFor(key int16) *apiInfo {
	if key < 0 || key >= apiKeysMax || !apiInfos[key].known {
		return nil
	}
	return &apiInfos[key]
}

// APIName is Kafka's name of an API key, or ours of a private one; "unknown" if there is none.
func APIName(key int16) string {
	if info := infoFor(key); info != nil {
		return info.name
	}
	if i := int(key) - int(KeyHello); i >= 0 && i < len(privateNames) {
		return privateNames[i]
	}
	return "unknown"
}

// flexibleRequest reports whether a version of an API has tags in its request header and body.
func flexibleRequest(key, version int16) bool {
	info := infoFor(key)
	return info != nil && info.flexible >= 0 && version >= info.flexible
}

// flexibleResponse reports whether the response header has tags. ApiVersions never has: its client does not know yet
// what the broker speaks (KIP-511).
func flexibleResponse(key, version int16) bool {
	return key != keyApiVersions && flexibleRequest(key, version)
}

// parseHeader reads the request header from a frame into r, and sets r.Body to what follows. The client id, which is
// nearly always the connection's last one, is taken from lastClientID without allocating if it is equal.
func (r *Request) parseHeader(frame []byte, lastClientID string) error {
	d := decoder{buf: frame}
	r.APIKey = d.int16("api key")
	r.Version = d.int16("api version")
	r.CorrelationID = d.int32("correlation id")
	if d.err != nil {
		return fmt.Errorf("request header: %w", d.err)
	}
	r.Known = infoFor(r.APIKey) != nil
	if !r.Known || (r.APIKey == keyShutdown && r.Version == 0) {
		r.Body = d.rest()
		return nil
	}
	id, null := d.nullableBytes16("client id")
	switch {
	case null:
		r.ClientID = ""
	case string(id) == lastClientID:
		r.ClientID = lastClientID
	default:
		r.ClientID = string(id)
	}
	// Of a version yet to come nobody knows what its header has; what was read up to here is enough to refuse it, and for ApiVersions to
	// be answered in version 0.
	if flexibleRequest(r.APIKey, r.Version) && r.Version <= apiInfos[r.APIKey].last {
		r.parseTags(&d)
	}
	if d.err != nil {
		return fmt.Errorf("header of %s v%d, correlation id %d: %w", APIName(r.APIKey), r.Version, r.CorrelationID, d.err)
	}
	r.Body = d.rest()
	return nil
}
