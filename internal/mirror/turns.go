package mirror

// turns is what the queues' directories lack, and in which order they get it: of each
// delivery one deployment in turn, and where nothing of the log is left, one of the
// directories that are to be looked at. What is to be done in one deployment's
// directory is done together, in the order of the log.
type turns struct {
	deliveries []share
	changed    map[string][]Entry // by deployment
	looks      map[string]bool    // deployments
	failed     bool               // of the last look
}

// share is what is left of a delivery: deployments.
type share struct {
	delivery string
	slugs    []string
}

func (t *turns) any() bool { return len(t.deliveries) > 0 || len(t.looks) > 0 }

// look asks for a look at all directories.
func (t *turns) look(slugs []string) {
	t.looks, t.failed = map[string]bool{}, false
	for _, slug := range slugs {
		t.looks[slug] = true
	}
}

// add notes that the entry's file is to follow the orders.
func (t *turns) add(e Entry) {
	if n := len(t.deliveries); n == 0 || t.deliveries[n-1].delivery != e.DeliveryID {
		t.deliveries = append(t.deliveries, share{delivery: e.DeliveryID})
	}
	last := &t.deliveries[len(t.deliveries)-1]
	last.slugs = append(last.slugs, e.Deployment)
	if t.changed == nil {
		t.changed = map[string][]Entry{}
	}
	t.changed[e.Deployment] = append(t.changed[e.Deployment], e)
}

// next takes the deployment whose turn it is, with the entries that have changed.
// There must be any.
func (t *turns) next() (slug string, changed []Entry, look bool) {
	if len(t.deliveries) > 0 {
		first := t.deliveries[0]
		t.deliveries = t.deliveries[1:]
		slug = first.slugs[0]
		if first.slugs = first.slugs[1:]; len(first.slugs) > 0 {
			t.deliveries = append(t.deliveries, first)
		}
	} else {
		for slug = range t.looks {
			break
		}
	}
	changed, look = t.changed[slug], t.looks[slug]
	delete(t.changed, slug)
	delete(t.looks, slug)
	return slug, changed, look
}
