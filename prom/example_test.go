package prom_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/mana/session"
	"github.com/mana/session/prom"
)

func Example() {
	metrics := prom.New()
	registry := prometheus.NewRegistry()
	registry.MustRegister(metrics)
	svc, err := session.New(session.WithObserver(metrics.Observer("shop")))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer svc.Close()
	if err := metrics.Add("shop", svc); err != nil {
		fmt.Println(err)
		return
	}

	page := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(page, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for line := range strings.Lines(page.Body.String()) {
		if strings.HasPrefix(line, "mana_session_token_requests_total") {
			fmt.Print(line)
		}
	}
	// Output:
	// mana_session_token_requests_total{bot="shop",result="hit"} 0
	// mana_session_token_requests_total{bot="shop",result="miss"} 0
}
