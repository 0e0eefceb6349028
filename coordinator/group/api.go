package group

import "time"

// Requests and results. A request belongs to the coordinator until its reply ran; strings are kept, byte slices are copied
// where they are kept. Results may share memory with the group: read-only.

// Protocol is one assignment strategy a member supports.
type Protocol struct {
	Name     string
	Metadata []byte
}

// JoinRequest asks to become or remain a member.
type JoinRequest struct {
	Group              string
	MemberID           string // "" for a new member
	InstanceID         *string
	ClientID           string
	ClientHost         string
	ProtocolType       string
	Protocols          []Protocol // in the order of preference
	SessionTimeout     time.Duration
	RebalanceTimeout   time.Duration
	RequireKnownMember bool // KIP-394: a new dynamic member is given its id and must join again with it
	CanSkipAssignment  bool // a returning static leader may be told to skip computing an assignment
	Reason             string
}

// JoinMember is what the leader learns about a member.
type JoinMember struct {
	MemberID   string
	InstanceID *string
	Metadata   []byte
}

// JoinResult answers a JoinRequest.
type JoinResult struct {
	Code           Code
	Generation     int32 // -1: none
	ProtocolType   *string
	Protocol       *string
	Leader         string
	SkipAssignment bool
	MemberID       string
	Members        []JoinMember // for the leader
}

// Assignment is one member's share, opaque to the coordinator.
type Assignment struct {
	MemberID string
	Data     []byte
}

// SyncRequest asks for the assignment; the leader's brings it.
type SyncRequest struct {
	Group        string
	Generation   int32
	MemberID     string
	InstanceID   *string
	ProtocolType *string // nil: not checked
	Protocol     *string // nil: not checked
	Assignments  []Assignment
}

// SyncResult answers a SyncRequest.
type SyncResult struct {
	Code         Code
	ProtocolType *string
	Protocol     *string
	Assignment   []byte
}

// HeartbeatRequest keeps a member's session.
type HeartbeatRequest struct {
	Group      string
	Generation int32
	MemberID   string
	InstanceID *string
}

// LeaveMember names a member that leaves, by id, or by instance id alone (administrative removal). Code is the result.
type LeaveMember struct {
	MemberID   string
	InstanceID *string
	Reason     string
	Code       Code
}

// LeaveRequest removes members. Results are in Members.
type LeaveRequest struct {
	Group   string
	Members []LeaveMember
}

// CommitRequest commits offsets, of a member or (Generation < 0) of somebody who uses the group as a store only. Results
// are in the partitions.
type CommitRequest struct {
	Group      string
	Generation int32
	MemberID   string
	InstanceID *string
	// UnknownGroup is the code for a generation in a group that does not exist: it depends on the request's version.
	UnknownGroup Code
	Retention    time.Duration // < 0: the broker's
	Topics       []CommitTopic
}

// CommitTopic is the part of a commit for one topic. A zero ID is unknown.
type CommitTopic struct {
	Name       string
	ID         [16]byte
	Partitions []CommitPartition
}

// CommitPartition is one offset to commit. Code is the result.
type CommitPartition struct {
	Partition   int32
	Offset      int64
	LeaderEpoch int32 // -1: none
	Metadata    string
	Code        Code
}

// OffsetsRequest reads committed offsets.
type OffsetsRequest struct {
	Group string
	// Topics to look up; their results are filled in. nil: all that the group has.
	Topics []OffsetsTopic
	// RequireStable waits for commits that are being written.
	RequireStable bool
}

// OffsetsTopic is one topic's partitions. With a nonzero ID, offsets committed for another topic of that name do not
// count.
type OffsetsTopic struct {
	Name       string
	ID         [16]byte
	Partitions []OffsetsPartition
}

// OffsetsPartition is one committed offset; Offset -1: none.
type OffsetsPartition struct {
	Partition   int32
	Offset      int64
	LeaderEpoch int32
	Metadata    string
}

// OffsetsResult answers an OffsetsRequest.
type OffsetsResult struct {
	Code   Code
	Topics []OffsetsTopic
}

// DeleteOffsetsRequest removes committed offsets. Results are in the partitions.
type DeleteOffsetsRequest struct {
	Group  string
	Topics []DeleteOffsetsTopic
}

// DeleteOffsetsTopic is the part for one topic.
type DeleteOffsetsTopic struct {
	Name       string
	Partitions []DeleteOffsetsPartition
}

// DeleteOffsetsPartition is one offset to remove. Code is the result.
type DeleteOffsetsPartition struct {
	Partition int32
	Code      Code
}

// Listed is a group in a list.
type Listed struct {
	Group        string
	ProtocolType string
	State        State
}

// Description is a group in detail. Protocol, and the members' Metadata and Assignment, are set in Stable only.
type Description struct {
	Code         Code
	Group        string
	State        State
	ProtocolType string
	Protocol     string
	Generation   int32
	Members      []DescribedMember
}

// DescribedMember is a member in a description.
type DescribedMember struct {
	MemberID   string
	InstanceID *string
	ClientID   string
	ClientHost string
	Metadata   []byte
	Assignment []byte
}
