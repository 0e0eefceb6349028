package netproto

import (
	"fmt"
	"time"

	"weir/internal/budget"
	"weir/internal/iobuf"
)

// Handler serves requests.
type Handler interface {
	// Handle is called on the connection's reader goroutine, one request at a time, in the order of arrival. It must see to
	// it that exactly one of Respond, RespondNone and Close is called, from any goroutine, now or later. While it blocks,
	// nothing more is read from the connection.
	Handle(r *Request)
	// Closed is called once when a connection is gone, after its last Handle returned. Requests that are still open may be
	// answered; the answers are dropped.
	Closed(c *Conn)
}

// requestState is where a request stands; Conn.mu guards it.
type requestState uint8

const (
	statePending  requestState = iota // with the handler
	stateAnswered                     // waiting for its turn to be written
	stateDone                         // written or dropped, memory released
)

// Request is one request. Its fields may be read until it is answered; Body also only while Buf is held.
type Request struct {
	APIKey        int16
	Version       int16
	CorrelationID int32
	ClientID      string // "" also for null
	Known         bool   // the API key is one of Kafka's
	Body          []byte // what follows the header, a view of Buf
	Buf           *iobuf.Buf
	Conn          *Conn
	Received      time.Time // when its last byte was there

	// Where its time goes, for who serves it to fill in until it is answered, and what else its log line and its trace say.
	Budget budget.Budget
	Note   budget.Note
	Trace  budget.Trace // as the header has it; whether to believe it is the handler's to decide

	// What follows belongs to the connection, under its lock.
	next      *Request
	state     requestState
	payload   *Payload // nil: nothing is written
	frameSize int
	dropped   bool  // its answer was not sent
	room      room  // memory that is given back with it
	closing   error // not nil: the connection ends when this request's turn comes
}

// Respond answers with p, which it takes over. It does no I/O and does not block, except that an answer given during
// Handle may be written by the reader after Handle returned.
func (r *Request) Respond(p *Payload) {
	p.seal(r.CorrelationID, flexibleResponse(r.APIKey, r.Version))
	r.Conn.answer(r, p, nil)
}

// RespondNone ends a request that gets no response (produce with acks=0).
func (r *Request) RespondNone() { r.Conn.answer(r, nil, nil) }

// Close answers by closing the connection, after the responses to earlier requests went out. err, which goes to the log in
// one line with the peer and the request, says what was wrong.
func (r *Request) Close(err error) {
	if err == nil {
		err = ErrMalformed
	}
	r.Conn.answer(r, nil, err)
}

// String names the request in messages.
func (r *Request) String() string {
	return fmt.Sprintf("%s v%d (api key %d, correlation id %d, client id %q)",
		APIName(r.APIKey), r.Version, r.APIKey, r.CorrelationID, r.ClientID)
}

// release gives back what the request holds. The caller is the only one who has it.
func (r *Request) release() {
	if r.payload != nil {
		r.payload.Discard()
		r.payload = nil
	}
	if r.Buf != nil {
		r.Buf.Release()
		r.Buf = nil
		r.Body = nil
	}
	r.Conn.srv.memory.give(r.room)
	r.room = room{}
}
