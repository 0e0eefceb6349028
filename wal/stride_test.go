//go:build !race

package wal

const byteStride = 1
