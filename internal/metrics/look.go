package metrics

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Show gives one value of a gauge. Labels are names and values, in turn; every value
// of a gauge has the same names.
type Show func(name, help string, value float64, labels ...string)

// Look is asked, each time that somebody collects, for what is so at that moment. What
// it cannot find out it leaves out.
type Look func(show Show)

// Describe is of prometheus.Collector: what a look shows is known once it has looked.
func (Look) Describe(chan<- *prometheus.Desc) {}

// Collect is of prometheus.Collector.
func (look Look) Collect(ch chan<- prometheus.Metric) {
	look(func(name, help string, value float64, labels ...string) {
		var names, values []string
		for i := 0; i+1 < len(labels); i += 2 {
			names, values = append(names, labels[i]), append(values, labels[i+1])
		}
		desc := prometheus.NewDesc(namespace+"_"+name, help, names, nil)
		m, err := prometheus.NewConstMetric(desc, prometheus.GaugeValue, value, values...)
		if err != nil {
			m = prometheus.NewInvalidMetric(desc, err)
		}
		ch <- m
	})
}

// At most so many collect at once, and no longer than so.
const (
	atOnce = 3
	within = 10 * time.Second
)

// Registry has what is known of this process, and about, as labels of build_info.
func Registry(about prometheus.Labels) *prometheus.Registry {
	r := prometheus.NewRegistry()
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Namespace: namespace, Name: "build_info", Help: "Always 1; the labels say which binary this is.", ConstLabels: about,
	})
	build.Set(1)
	r.MustRegister(build, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// Handler answers with what the registry has. What fails is left out, and counted.
func Handler(r *prometheus.Registry) http.Handler {
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{
		Registry: r, EnableOpenMetrics: true, MaxRequestsInFlight: atOnce, Timeout: within, ErrorHandling: promhttp.ContinueOnError,
	})
}
