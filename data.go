package session

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/sethvargo/go-retry"
	"github.com/tidwall/gjson"
)

// A data write that meets another writer tries again after up to this long.
const conflictJitter = 5 * time.Millisecond

// SetData stores value as JSON under key in the user's session. It is atomic:
// writers of other keys, in any process, and refreshes lose nothing. The
// session's life stays as it is. All data of a user share the 1 MiB of their
// record.
//
// It returns [ErrNotLoggedIn] without a session (a link alone is not one),
// [ErrStoreUnavailable] if the store fails, when nothing is kept for later, and an
// error of encoding/json for a value that has no JSON form.
func (s *Service) SetData(ctx context.Context, userID, key string, value any) error {
	encoded, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("session: data %q: %w", key, err)
	}
	return s.editData(ctx, userID, key, func(data map[string]json.RawMessage) bool {
		data[key] = encoded
		return true
	})
}

// DeleteData removes key from the user's session; a key that is not there is
// no error. Otherwise it is as SetData.
func (s *Service) DeleteData(ctx context.Context, userID, key string) error {
	return s.editData(ctx, userID, key, func(data map[string]json.RawMessage) bool {
		_, found := data[key]
		delete(data, key)
		return found
	})
}

// Data decodes what is stored under key into dst, as [json.Unmarshal] does,
// except that a number in an interface becomes a [json.Number], so that large
// integers keep their digits. It returns false, and leaves dst alone, when
// there is no such key; 0, false, "" and null are values. Errors are
// [ErrNotLoggedIn], [ErrStoreUnavailable] and those of encoding/json.
func (s *Service) Data(ctx context.Context, userID, key string, dst any) (bool, error) {
	if err := s.enter(ctx, userID); err != nil {
		return false, err
	}
	defer s.life.end()
	l, err := s.known(ctx, userID)
	if err != nil {
		return false, err
	}
	if l == nil {
		return false, ErrNotLoggedIn
	}
	value := l.dataMap()[key]
	if value == nil {
		return false, nil
	}
	decoder := json.NewDecoder(bytes.NewReader(value))
	decoder.UseNumber()
	if err := decoder.Decode(dst); err != nil {
		return false, fmt.Errorf("session: data %q: %w", key, err)
	}
	return true, nil
}

// DataAs is [Service.Data] that returns the value as a T.
func DataAs[T any](ctx context.Context, s *Service, userID, key string) (T, bool, error) {
	var value T
	found, err := s.Data(ctx, userID, key, &value)
	return value, found, err
}

// editData compares-and-swaps until edit has been applied to what is stored.
// edit returns false when there is nothing to write.
func (s *Service) editData(ctx context.Context, userID, key string, edit func(map[string]json.RawMessage) bool) error {
	if !utf8.ValidString(key) { // which JSON would store under another name
		return fmt.Errorf("session: data: key %q is not valid UTF-8", key)
	}
	if err := s.enter(ctx, userID); err != nil {
		return err
	}
	defer s.life.end()
	backoff := retry.WithFullJitter(retry.BackoffFunc(func() (time.Duration, bool) { return conflictJitter, false }))
	if err := s.settle(ctx, userID); err != nil {
		return err
	}
	return retry.Do(ctx, backoff, func(ctx context.Context) error {
		base, err := s.readStore(ctx, userID)
		if err != nil {
			return err
		}
		if base.login == nil {
			return ErrNotLoggedIn
		}
		data := base.login.dataMap()
		if !edit(data) {
			return nil
		}
		next := *base.login
		if next.expires.IsZero() { // the other service left it out
			next.expires = s.sessionEnd()
		}
		encoded, err := json.Marshal(data)
		if err != nil {
			return fmt.Errorf("session: data: %w", err)
		}
		next.data = string(encoded)
		value, err := s.codec.encode(&next)
		if err != nil {
			return err
		}
		started := time.Now()
		_, err = s.store.Swap(ctx, base.stored, Record{UserID: userID, Value: value, Expires: next.expires})
		err = s.storeAnswered(ctx, "write", started, err)
		s.wrote(userID, err)
		if errors.Is(err, ErrConflict) {
			return retry.RetryableError(err)
		}
		return err
	})
}

// dataMap returns the data key by key, for the caller to keep.
func (l *login) dataMap() map[string]json.RawMessage {
	data := make(map[string]json.RawMessage)
	gjson.Parse(l.data).ForEach(func(key, value gjson.Result) bool {
		data[key.String()] = json.RawMessage(value.Raw)
		return true
	})
	return data
}
