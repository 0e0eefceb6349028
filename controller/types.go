package controller

import (
	"errors"

	"weir/controller/machine"
)

// What is asked and answered; see package machine.
type (
	Registration         = machine.Registration
	Heartbeat            = machine.Heartbeat
	Answer               = machine.HeartbeatAnswer
	ISRChange            = machine.ISRChange
	ISRMember            = machine.ISRMember
	ISRResult            = machine.ISRResult
	Reassignment         = machine.Reassignment
	Reassigning          = machine.Reassigning
	TopicPartition       = machine.TopicPartition
	ElectResult          = machine.ElectResult
	Decommission         = machine.Decommission
	DecommissionProgress = machine.DecommissionProgress
)

// Errors of the controller; see package machine.
var (
	ErrNotController     = machine.ErrNotController
	ErrStaleBrokerEpoch  = machine.ErrStaleBrokerEpoch
	ErrDuplicateBroker   = machine.ErrDuplicateBroker
	ErrUnknownBroker     = machine.ErrUnknownBroker
	ErrFencedLeaderEpoch = machine.ErrFencedLeaderEpoch
	ErrInvalidUpdate     = machine.ErrInvalidUpdate
	ErrInvalidRequest    = machine.ErrInvalidRequest
	ErrIneligibleReplica = machine.ErrIneligibleReplica
	ErrElectionNotNeeded = machine.ErrElectionNotNeeded
	ErrNoEligibleLeader  = machine.ErrNoEligibleLeader
	ErrNoReassignment    = machine.ErrNoReassignment
	ErrInvalidAssignment = machine.ErrInvalidAssignment
	ErrCannotLeave       = machine.ErrCannotLeave
	ErrNotLeaving        = machine.ErrNotLeaving

	// ErrBusy: too many requests wait; nothing was done.
	ErrBusy = errors.New("controller is busy")
	// ErrClosed: Close was called.
	ErrClosed = errors.New("controller is closed")
)
