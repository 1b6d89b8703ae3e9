// What go-spiffe says of SPIFFE IDs and of certificate chains. In: JSON on standard input. Out: JSON.
package main

import (
	"crypto/x509"
	"encoding/json"
	"os"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

type chain struct {
	Chain [][]byte            // DER, leaf first
	Roots map[string][][]byte // by trust domain
}

type question struct {
	Chains []chain
	IDs    []string
}

// The identity, or why there is none.
type verdict struct {
	ID    string `json:"id"`
	Error string `json:"error"`
}

func told(id spiffeid.ID, err error) verdict {
	if err != nil {
		return verdict{Error: err.Error()}
	}
	return verdict{ID: id.String()}
}

func judge(c chain) (spiffeid.ID, error) {
	bundles := x509bundle.NewSet()
	for name, roots := range c.Roots {
		domain, err := spiffeid.TrustDomainFromString(name)
		if err != nil {
			return spiffeid.ID{}, err
		}
		bundle := x509bundle.New(domain)
		for _, root := range roots {
			certificate, err := x509.ParseCertificate(root)
			if err != nil {
				return spiffeid.ID{}, err
			}
			bundle.AddX509Authority(certificate)
		}
		bundles.Add(bundle)
	}
	id, _, err := x509svid.ParseAndVerify(c.Chain, bundles)
	return id, err
}

func main() {
	var asked question
	if err := json.NewDecoder(os.Stdin).Decode(&asked); err != nil {
		panic(err)
	}
	answers := map[string][]verdict{"chains": {}, "ids": {}}
	for _, c := range asked.Chains {
		answers["chains"] = append(answers["chains"], told(judge(c)))
	}
	for _, text := range asked.IDs {
		answers["ids"] = append(answers["ids"], told(spiffeid.FromString(text)))
	}
	if err := json.NewEncoder(os.Stdout).Encode(answers); err != nil {
		panic(err)
	}
}
