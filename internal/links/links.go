// Package links owns the addresses of this deployer's pages, which lie under the origin
// of the configuration. Without an origin there are none.
package links

import "net/url"

// Home is the address of the first page, or "".
func Home(origin string) string {
	if origin == "" {
		return ""
	}
	return origin + "/"
}

// Delivery is the address of what became of a delivery, or "".
func Delivery(origin, id string) string {
	home := Home(origin)
	if home == "" {
		return ""
	}
	return home + "deliveries/" + url.PathEscape(id)
}
