//go:build race

package wal

// byteStride thins out the tests that damage a log byte by byte where the race detector makes each step twenty times
// slower; without it they take every byte.
const byteStride = 41
