package stream

import "hash/maphash"

// directory finds the entries of a table by the hashes of their keys. It is a hash table with linear probing of which a place takes eight bytes: the hash
// and the entry's number in the cache. So a lookup mostly touches one line of memory here, and no key but the one that is looked for;
// and it can be told beforehand, for many keys at once, which lines those will be. See table.approach.
//
// A Go map of strings takes a line for its control bytes, one for the key's header and one for the key; with a million keys each of them is a
// wait for the memory.
type directory struct {
	places []place // as many as a power of two
	used   int
}

// place is empty if ref is 0.
type place struct {
	hash uint32
	ref  uint32 // 1 + the entry's number
}

// leastPlaces is how many places the smallest directory has.
const leastPlaces = 16

// seed makes the hashes of this process: nobody outside can choose keys that fall together.
var seed = maphash.MakeSeed()

func hashOf(key []byte) uint32 { return uint32(maphash.Bytes(seed, key)) } //nolint:gosec // the low half is a hash too

// first returns the place at which the search for a hash begins.
func (d *directory) first(hash uint32) int { return int(hash) & (len(d.places) - 1) }

func (d *directory) next(i int) int { return (i + 1) & (len(d.places) - 1) }

// insert adds an entry's number; it must not be there.
func (d *directory) insert(hash, number uint32) {
	if 4*(d.used+1) > 3*len(d.places) {
		d.grow()
	}
	i := d.first(hash)
	for d.places[i].ref != 0 {
		i = d.next(i)
	}
	d.places[i] = place{hash: hash, ref: number + 1}
	d.used++
}

// grow doubles the directory. The hashes are in it, so that no entry is touched.
func (d *directory) grow() {
	old := d.places
	d.places = make([]place, max(leastPlaces, 2*len(old)))
	for _, p := range old {
		if p.ref == 0 {
			continue
		}
		i := d.first(p.hash)
		for d.places[i].ref != 0 {
			i = d.next(i)
		}
		d.places[i] = p
	}
}

// remove takes an entry's number out; it must be there. Those behind it that were pushed on by it move up, so that no search ends too early
// (Knuth, The Art of Computer Programming, volume 3, section 6.4, algorithm R).
func (d *directory) remove(hash, number uint32) {
	i := d.first(hash)
	for d.places[i].ref != number+1 {
		if d.places[i].ref == 0 {
			panic("a directory does not have the entry that is removed")
		}
		i = d.next(i)
	}
	d.used--
	for hole, j := i, i; ; {
		j = d.next(j)
		p := d.places[j]
		if p.ref == 0 {
			d.places[hole] = place{}
			return
		}
		// It may fill the hole unless its search begins after the hole, round the end of the array.
		if mask := len(d.places) - 1; (j-d.first(p.hash))&mask >= (j-hole)&mask {
			d.places[hole] = p
			hole = j
		}
	}
}

// reset empties the directory and gives its memory back.
func (d *directory) reset() { *d = directory{} }

// all yields the numbers of all entries. The directory must not be changed meanwhile.
func (d *directory) all(yield func(number uint32) bool) {
	for _, p := range d.places {
		if p.ref != 0 && !yield(p.ref-1) {
			return
		}
	}
}
