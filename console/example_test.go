package console_test

import (
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"

	"github.com/mana/session"
	"github.com/mana/session/console"
)

// Whoever is not let in by the embedder's own authorization sees nothing but the
// probes.
func Example() {
	svc, err := session.New()
	if err != nil {
		log.Fatal(err)
	}
	defer svc.Close()
	c, err := console.New(svc, func(r *http.Request) (operator string, err error) {
		if name, password, ok := r.BasicAuth(); ok && name == "olga" && password == "a password of her own" {
			return name, nil
		}
		return "", console.ErrUnauthenticated
	}, console.WithChallenge(`Basic realm="sessions"`))
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	mux := http.NewServeMux()
	mux.Handle("/console/", http.StripPrefix("/console", c))

	get := func(path, name string) {
		r := httptest.NewRequest(http.MethodGet, path, nil)
		if name != "" {
			r.SetBasicAuth(name, "a password of her own")
		}
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		fmt.Printf("%s %q: %d\n", path, name, w.Code)
	}
	get("/console/", "")
	get("/console/", "olga")
	get("/console/healthz", "")
	// Output:
	// /console/ "": 401
	// /console/ "olga": 200
	// /console/healthz "": 200
}
