package session

// SetMaxQueued bounds how many writes wait for the store, before any does.
func SetMaxQueued(s *Service, n int) { s.queue.max = n }
