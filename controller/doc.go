// Package controller is the cluster's controller: on the node that leads the metadata it keeps the brokers' sessions, fences, elects,
// places, moves and balances. What to do is decided by package machine; this package runs it, with one goroutine that owns it, one
// timer, and one change of the metadata under way at a time.
package controller
