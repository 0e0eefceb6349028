// Package machine decides for a cluster: which brokers live, who leads a partition, who holds it. It is pure: what happens (images,
// heartbeats, requests, the time) goes in, commands for the metadata and answers come out. It has no goroutine, clock or I/O of its
// own, so that a simulator can run it; package controller runs it on a node.
//
// One round is: Observe every new image, Heard for every heartbeat, then Decide with the requests that wait. Its Plan has answers
// and commands. The caller commits the commands entry by entry, observes the image that they made and calls Complete, which
// has the rest of the answers. Between Decide and Complete nothing else may be decided: every decision is made on an image that
// has the results of all before it. What must be so (a fenced broker leads nothing) is derived from the image each time and never
// remembered, so a plan whose outcome is unknown does no harm: the next one begins with what came of it.
package machine
