package broker

import (
	"fmt"

	"weir/replica"
)

// onBusy tells that there is something to do.
func (b *Broker) onBusy() {
	if b.busy != nil {
		b.busy()
	}
}

// metaIOChanged: operations on the metadata's log went in flight or came back. They are on the same disk as the data.
func (b *Broker) metaIOChanged() {
	b.onBusy()
	if m := b.metaIO.Load(); m != nil {
		m.IOChanged()
	}
}

// metaLate is the disk's last word on a write of the metadata that had been given up on.
func (b *Broker) metaLate(err error) {
	b.metaFailed(fmt.Errorf("%w: %w", replica.ErrStorage, err))
}
