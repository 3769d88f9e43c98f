package session

// SetMaxQueued bounds how many writes wait for the store, before any does.
func SetMaxQueued(s *Service, n int) { s.outbox.max = n }

// Seal returns the value that WithEncryption(key) stores for a user's record.
func Seal(key []byte, userID, plain string) string {
	k, err := newSealKey(key)
	if err != nil {
		panic(err)
	}
	return k.seal(userID, plain)
}
