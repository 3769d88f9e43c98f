package session

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"unicode/utf8"

	"github.com/tidwall/gjson"
)

// SetData stores value as JSON under key in the user's session. It is atomic:
// writers of other keys, in any process, and refreshes lose nothing. To change
// what is stored, use [Service.UpdateData]: between Data and SetData another
// writer of the same key would be lost. All data of a user share the 1 MiB of
// their record, and go with a logout.
//
// A linked user without a session gets one, as with [Service.Session], and so
// SetData can return the errors of [Service.Token]. It returns [ErrTooLarge] for
// a value that does not fit, [ErrStoreUnavailable] if the store fails, when
// nothing is kept for later, and an error of encoding/json for a value that has
// no JSON form. Safe for concurrent use.
func (s *Service) SetData(ctx context.Context, userID, key string, value any) error {
	encoded, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("session: data %q: %w", key, err)
	}
	return s.editData(ctx, userID, key, func(data map[string]json.RawMessage) (bool, error) {
		data[key] = encoded
		return true, nil
	})
}

// UpdateData stores under key what change makes of the value that is stored
// there, which is nil if there is none. It is atomic: if another writer comes
// between, change is called again, with the newer value. change must not call
// the Service for the same user, and has to return soon; its error is returned
// and nothing is stored. Otherwise it is as [Service.SetData].
func (s *Service) UpdateData(ctx context.Context, userID, key string, change func(old json.RawMessage) (any, error)) error {
	return s.editData(ctx, userID, key, func(data map[string]json.RawMessage) (bool, error) {
		value, err := change(data[key])
		if err != nil {
			return false, err
		}
		encoded, err := json.Marshal(value)
		if err != nil {
			return false, fmt.Errorf("session: data %q: %w", key, err)
		}
		data[key] = encoded
		return true, nil
	})
}

// UpdateDataAs is [Service.UpdateData] with the value as a T, which is the zero
// value if there is none. A stored value that is no T is an error.
func UpdateDataAs[T any](ctx context.Context, s *Service, userID, key string, change func(old T) (T, error)) error {
	return s.UpdateData(ctx, userID, key, func(old json.RawMessage) (any, error) {
		var value T
		if old != nil {
			if err := decodeData(key, old, &value); err != nil {
				return nil, err
			}
		}
		return change(value)
	})
}

// DeleteData removes key from the user's session; a key that is not there is
// no error. Otherwise it is as SetData.
func (s *Service) DeleteData(ctx context.Context, userID, key string) error {
	return s.editData(ctx, userID, key, func(data map[string]json.RawMessage) (bool, error) {
		_, found := data[key]
		delete(data, key)
		return found, nil
	})
}

// Data decodes what is stored under key into dst, as [json.Unmarshal] does,
// except that a number in an interface becomes a [json.Number], so that large
// integers keep their digits. It returns false, and leaves dst alone, when
// there is no such key; 0, false, "" and null are values. Errors are those of
// [Service.Session] and of encoding/json.
func (s *Service) Data(ctx context.Context, userID, key string, dst any) (bool, error) {
	l, err := s.session(ctx, userID)
	if err != nil {
		return false, err
	}
	value := l.dataMap()[key]
	if value == nil {
		return false, nil
	}
	return true, decodeData(key, value, dst)
}

// DataKeys returns the keys of the user's data, sorted. Errors are those of
// [Service.Session].
func (s *Service) DataKeys(ctx context.Context, userID string) ([]string, error) {
	l, err := s.session(ctx, userID)
	if err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(l.dataMap())), nil
}

func decodeData(key string, value json.RawMessage, dst any) error {
	decoder := json.NewDecoder(bytes.NewReader(value))
	decoder.UseNumber()
	if err := decoder.Decode(dst); err != nil {
		return fmt.Errorf("session: data %q: %w", key, err)
	}
	return nil
}

// DataAs is [Service.Data] that returns the value as a T.
func DataAs[T any](ctx context.Context, s *Service, userID, key string) (T, bool, error) {
	var value T
	found, err := s.Data(ctx, userID, key, &value)
	return value, found, err
}

// editData edits the data of the user's session. edit returns false when there
// is nothing to write.
func (s *Service) editData(ctx context.Context, userID, key string, edit func(map[string]json.RawMessage) (bool, error)) error {
	if !utf8.ValidString(key) { // which JSON would store under another name
		return fmt.Errorf("session: data: key %q is not valid UTF-8", key)
	}
	if err := s.enter(ctx, userID); err != nil {
		return err
	}
	defer s.life.end()
	change := func(next *login) (bool, error) {
		data := next.dataMap()
		if changed, err := edit(data); err != nil || !changed {
			return false, err
		}
		encoded, err := json.Marshal(data)
		if err != nil {
			return false, fmt.Errorf("session: data: %w", err)
		}
		grows := len(encoded) > len(next.data)
		next.data = string(encoded)
		if size := next.size(); grows && size > maxDataRecord {
			return false, fmt.Errorf("%w: a record of %d bytes, at most %d are allowed", ErrTooLarge, size, maxDataRecord)
		}
		return true, nil
	}
	err := s.edit(ctx, userID, change, TrailEvent{})
	if errors.Is(err, errNoSession) { // a link can make one
		if _, err = s.usable(ctx, userID); err == nil {
			err = s.edit(ctx, userID, change, TrailEvent{})
		}
	}
	return err
}

// errNoSession is what edit returns when there is nothing to edit.
var errNoSession = fmt.Errorf("%w: no session", ErrNotLoggedIn)

// edit compares-and-swaps until change has been applied to what is stored.
// change returns false when there is nothing to write.
func (s *Service) edit(ctx context.Context, userID string, change func(next *login) (bool, error), what TrailEvent) error {
	brief, cancel := s.records.brief(ctx)
	defer cancel()
	if err := s.outbox.flush(brief, userID); err != nil {
		return err
	}
	for {
		base, err := s.records.read(brief, userID)
		if err != nil {
			return err
		}
		if base.login == nil {
			return errNoSession
		}
		next := *base.login
		if changed, err := change(&next); err != nil || !changed {
			return err
		}
		if next.expires.IsZero() { // the other service left it out
			next.expires = s.sessionEnd()
		}
		_, err = s.records.save(brief, "", base.stored, &next, what)
		if !errors.Is(err, ErrConflict) {
			return err
		}
		if !pauseForOthers(brief) {
			return ctx.Err()
		}
	}
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
