package event

// Partition returns the partition of everything about a cluster in topics with n partitions: Kafka's default, that is murmur2 over
// the id's bytes, made positive, modulo n (org.apache.kafka.clients.producer.internals.BuiltInPartitioner). A default client
// that uses the cluster id as record key lands in the same partition. It panics unless n is positive.
func Partition(cluster ClusterID, n int32) int32 {
	return int32(murmur2([]byte(cluster))&0x7fffffff) % n
}

// murmur2 is the 32-bit MurmurHash2 with Kafka's seed.
func murmur2(b []byte) uint32 {
	const (
		seed uint32 = 0x9747b28c
		m    uint32 = 0x5bd1e995
		r           = 24
	)
	h := seed ^ uint32(len(b))
	for len(b) >= 4 {
		k := uint32(b[3])<<24 | uint32(b[2])<<16 | uint32(b[1])<<8 | uint32(b[0])
		b = b[4:]
		k *= m
		k ^= k >> r
		k *= m
		h *= m
		h ^= k
	}
	switch len(b) {
	case 3:
		h ^= uint32(b[2]) << 16
		fallthrough
	case 2:
		h ^= uint32(b[1]) << 8
		fallthrough
	case 1:
		h ^= uint32(b[0])
		h *= m
	}
	h ^= h >> 13
	h *= m
	h ^= h >> 15
	return h
}
