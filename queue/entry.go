package queue

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/oklog/ulid/v2"

	"github.com/ducompsoc/durhack-deployer/internal/names"
)

// Entry names one file of a queue. The order of names is the order of arrival.
type Entry struct {
	// Name is "{ULID}_{delivery_id}.json", the file's name.
	Name       string
	ID         ulid.ULID
	DeliveryID string
}

const suffix = ".json"

// lastULID has no successor, so no entry may have it.
var lastULID = ulid.ULID{255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255}

// errors of names, which say what is wrong with one.
var (
	errNoSuffix   = errors.New("does not end in " + suffix)
	errNoULID     = errors.New("does not begin with a ULID and an underscore")
	errDeliveryID = errors.New("has no delivery ID of " + names.DeliveryIDRule)
)

// NewEntry returns the entry of that ID and delivery.
func NewEntry(id ulid.ULID, deliveryID string) (Entry, error) {
	if !names.DeliveryID(deliveryID) {
		return Entry{}, fmt.Errorf("%q is not a delivery ID (%s): %w", clip(deliveryID), names.DeliveryIDRule, fs.ErrInvalid)
	}
	if id == lastULID {
		return Entry{}, fmt.Errorf("the ULID %s has no successor: %w", id, fs.ErrInvalid)
	}
	return Entry{Name: id.String() + "_" + deliveryID + suffix, ID: id, DeliveryID: deliveryID}, nil
}

// ParseName reads an entry's name. There is one way only to write an entry.
func ParseName(name string) (Entry, error) {
	fail := func(why error) (Entry, error) {
		return Entry{}, fmt.Errorf("the name %q %w", clip(name), why)
	}
	stem, ok := strings.CutSuffix(name, suffix)
	if !ok {
		return fail(errNoSuffix)
	}
	if len(stem) <= ulid.EncodedSize || stem[ulid.EncodedSize] != '_' {
		return fail(errNoULID)
	}
	text := stem[:ulid.EncodedSize]
	id, err := ulid.ParseStrict(text)
	if err != nil || id == lastULID || strings.ToUpper(text) != text {
		return fail(errNoULID)
	}
	delivery := stem[ulid.EncodedSize+1:]
	if !names.DeliveryID(delivery) {
		return fail(errDeliveryID)
	}
	return Entry{Name: name, ID: id, DeliveryID: delivery}, nil
}

// hidden names are ours (unfinished files) or none of our business.
func hidden(name string) bool { return strings.HasPrefix(name, ".") }

// clip bounds what an error repeats of a name that somebody else chose.
func clip(name string) string {
	const most = 100
	if len(name) <= most {
		return name
	}
	return name[:most] + "..."
}
