package links

import "testing"

func TestLinks_AreUnderTheOriginIfThereIsOne(t *testing.T) {
	t.Parallel()
	const origin = "https://deploy.example.com"
	for got, want := range map[string]string{
		Home(origin): origin + "/", Delivery(origin, "d-1"): origin + "/deliveries/d-1", Delivery(origin, "a/b?c"): origin + "/deliveries/a%2Fb%3Fc",
		Home("") + Delivery("", "d-1"): "",
	} {
		if got != want {
			t.Errorf("%q, and not %q", got, want)
		}
	}
}
