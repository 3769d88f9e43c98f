package console

import (
	"fmt"
	"slices"
	"time"
)

// The size of a chart, in the units of its own drawing.
const (
	chartWidth  = 300
	chartHeight = 64
)

// chart is the minutes of the last hour as bars, the current one on the right.
type chart struct {
	ID     string
	Title  string
	Text   string // what the bars say
	Bad    bool   // of what should not happen
	Height int
	Width  int
	Bars   []bar
}

type bar struct{ X, Y, Width, Height int }

func charts(past []minute) []chart {
	return []chart{
		newChart("refreshes", "Tokens refreshed", false, past, func(m minute) int64 { return m.Refreshes }),
		newChart("failures", "Refreshes that failed", true, past, func(m minute) int64 { return m.Failures }),
		newChart("store-errors", "Store errors", true, past, func(m minute) int64 { return m.StoreErrors }),
		newChart("ended", "Sessions ended by the auth server", true, past, func(m minute) int64 { return m.Ended }),
	}
}

func newChart(id, title string, bad bool, past []minute, of func(minute) int64) chart {
	var sum, most int64
	for _, m := range past {
		sum += of(m)
		most = max(most, of(m))
	}
	c := chart{ID: id, Title: title, Bad: bad, Height: chartHeight, Width: chartWidth}
	c.Text = fmt.Sprintf("%s in all, at most %s in a minute, %s in this minute.", count(sum), count(most), count(of(past[len(past)-1])))
	const step = chartWidth / minutes
	for i, m := range past {
		n := of(m)
		if n <= 0 {
			continue
		}
		height := max(2, int(float64(n)/float64(most)*chartHeight))
		c.Bars = append(c.Bars, bar{
			X: chartWidth - (len(past)-i)*step, Y: chartHeight - height, Width: step - 1, Height: height,
		})
	}
	return c
}

// row is a minute in the table beside the charts.
type row struct {
	Begin                                   moment
	Time                                    string
	Refreshes, Failures, StoreErrors, Ended string
}

// rows are the minutes, the current one first.
func rows(past []minute) []row {
	var all []row
	for _, m := range slices.Backward(past) {
		all = append(all, row{
			moment{m.Begin}, m.Begin.UTC().Format(time.TimeOnly),
			count(m.Refreshes), count(m.Failures), count(m.StoreErrors), count(m.Ended),
		})
	}
	return all
}
