package netproto

import (
	"bytes"
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// DecodeKmsg decodes a request's body strictly: bytes missing or left over are an error, and a count or length never makes it
// allocate for what is not there. Nothing in the result refers to the request's buffer, except UnknownTags.
func DecodeKmsg(r *Request) (kmsg.Request, error) {
	req, err := decodeBody(r.APIKey, r.Version, r.Body)
	if err != nil {
		return nil, fmt.Errorf("%s v%d: %w", APIName(r.APIKey), r.Version, err)
	}
	return req, nil
}

func decodeBody(key, version int16, body []byte) (req kmsg.Request, err error) {
	s := requestSchemas[key]
	if s == nil {
		return nil, fmt.Errorf("%w: no schema for api key %d", ErrUnsupported, key)
	}
	req = kmsg.RequestForKey(key)
	if version < 0 || version > req.MaxVersion() {
		return nil, fmt.Errorf("%w: version %d, known are 0 to %d", ErrUnsupported, version, req.MaxVersion())
	}
	req.SetVersion(version)
	if err := s.check(version, req.IsFlexible(), body); err != nil {
		return nil, err
	}
	if s.hasBytes {
		body = bytes.Clone(body) // kmsg copies strings, but keeps views of byte fields
	}
	// The walk leaves kmsg nothing to stumble over; should it panic none the less, one bad request must not end the broker.
	defer func() {
		if p := recover(); p != nil {
			req, err = nil, fmt.Errorf("%w: decoder failed: %v", ErrMalformed, p)
		}
	}()
	if err := req.ReadFrom(body); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return req, nil
}

// RespondKmsg answers with a message, encoded in the request's version.
func (r *Request) RespondKmsg(resp kmsg.Response) {
	resp.SetVersion(r.Version)
	r.RespondKmsgAs(resp)
}

// RespondKmsgAs answers with a message in the version it has been set to: ApiVersions answers an unsupported version in version 0.
func (r *Request) RespondKmsgAs(resp kmsg.Response) {
	p := NewPayload()
	p.SetOwn(resp.AppendTo(p.Own()))
	r.Respond(p)
}
