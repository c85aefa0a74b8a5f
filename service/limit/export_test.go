package limit

// Pairs is how many pairs of caller and origin b remembers.
func (b *RetryBudget) Pairs() (n int) {
	for i := range b.shards {
		s := &b.shards[i]
		s.mu.Lock()
		n += len(s.pairs)
		s.mu.Unlock()
	}
	return n
}

// Remembered is how many callers and addresses a remembers.
func (a *Admission) Remembered() (callers, peers int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.callers), len(a.peers)
}
