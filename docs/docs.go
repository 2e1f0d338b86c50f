// Package docs holds the description of the API, for programs that ask the API for it.
package docs

import _ "embed" // of openapi.yaml

// OpenAPI describes the API.
//
//go:embed openapi.yaml
var OpenAPI []byte
