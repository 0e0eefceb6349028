package netproto

import (
	"bytes"
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// CallKmsg sends a message of Kafka's, whose version is set, and returns the decoded answer, which refers to no pooled memory. Errors are
// *PeerError.
func (p *Peers) CallKmsg(ctx context.Context, node int32, class Class, req kmsg.Request) (kmsg.Response, error) {
	resp, r, err := p.callKmsg(ctx, node, class, req, bytes.Clone)
	if err != nil {
		return nil, err
	}
	r.Release()
	return resp, nil
}

// CallKmsgViews is CallKmsg whose answer's byte fields (records) are views of the PeerResponse, which the caller releases.
func (p *Peers) CallKmsgViews(ctx context.Context, node int32, class Class, req kmsg.Request) (kmsg.Response, *PeerResponse, error) {
	return p.callKmsg(ctx, node, class, req, func(body []byte) []byte { return body })
}

func (p *Peers) callKmsg(ctx context.Context, node int32, class Class, req kmsg.Request, keep func([]byte) []byte) (kmsg.Response, *PeerResponse, error) {
	started := p.clk.Now()
	fail := func(op string, sent bool, err error) (kmsg.Response, *PeerResponse, error) {
		e := &PeerError{Node: node, Class: class, Op: op, Elapsed: p.clk.Now().Sub(started), Sent: sent, Err: err}
		p.metrics.failed(class, e)
		return nil, nil, e
	}
	if produce, ok := req.(*kmsg.ProduceRequest); ok && produce.Acks == 0 {
		return fail("encode", false, fmt.Errorf("%w: a produce request with acks=0 has no answer", ErrUnsupported))
	}
	r, err := p.Call(ctx, node, class, req.Key(), req.GetVersion(), req.AppendTo(nil))
	if err != nil {
		return nil, nil, err
	}
	resp, err := decodeResponse(req, keep(r.Body))
	if err != nil {
		r.Release()
		return fail("decode", true, err)
	}
	return resp, r, nil
}

// decodeResponse decodes the answer to req. Nodes of one cluster trust each other, but one that has gone wrong must not end another.
func decodeResponse(req kmsg.Request, body []byte) (resp kmsg.Response, err error) {
	defer func() {
		if p := recover(); p != nil {
			resp, err = nil, fmt.Errorf("%w: response to %s v%d: decoder failed: %v", ErrMalformed, APIName(req.Key()), req.GetVersion(), p)
		}
	}()
	resp = req.ResponseKind()
	resp.SetVersion(req.GetVersion())
	if err := resp.ReadFrom(body); err != nil {
		return nil, fmt.Errorf("%w: response to %s v%d: %w", ErrMalformed, APIName(req.Key()), req.GetVersion(), err)
	}
	return resp, nil
}
