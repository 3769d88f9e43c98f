package world

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"

	"github.com/mana/session/sessiontest"
)

// Changed answers with other claims and fields.
func Changed(change func(claims, body map[string]any)) sessiontest.Fault {
	return func(w http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
		recorder := httptest.NewRecorder()
		answer(recorder, r)
		var body map[string]any
		if err := json.Unmarshal(recorder.Body.Bytes(), &body); err != nil {
			panic(err)
		}
		claims := ClaimsOf(body["accessToken"].(string))
		change(claims, body)
		body["accessToken"] = WithClaims(body["accessToken"].(string), claims)
		sessiontest.JSON(body)(w, r, answer)
	}
}

func ClaimsOf(token string) (claims map[string]any) {
	encoded, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err != nil {
		panic(err)
	}
	if err := json.Unmarshal(encoded, &claims); err != nil {
		panic(err)
	}
	return claims
}

func WithClaims(token string, claims map[string]any) string {
	encoded, err := json.Marshal(claims)
	if err != nil {
		panic(err)
	}
	parts := strings.Split(token, ".")
	parts[1] = base64.RawURLEncoding.EncodeToString(encoded)
	return strings.Join(parts, ".")
}

// Refuse finds the given tokens bad, or all if there are none.
func Refuse(tokens ...string) func(context.Context, string) error {
	return func(_ context.Context, token string) error {
		if len(tokens) == 0 || slices.Contains(tokens, token) {
			return errors.New("wrong signature")
		}
		return nil
	}
}
