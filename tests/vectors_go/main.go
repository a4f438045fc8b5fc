// Signed messages by ProtonMail's go-crypto, one JSON object a line, for tests/vectors_programs.py.
package main

import (
	"bytes"
	"crypto"
	"encoding/base64"
	"encoding/json"
	"io"
	"os"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

type vector struct {
	Name    string  `json:"name"`
	Message string  `json:"message"`
	Key     string  `json:"key"`
	Text    *string `json:"text"`
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func armored(kind string, write func(io.Writer)) string {
	var out bytes.Buffer
	w, err := armor.Encode(&out, kind, nil)
	must(err)
	write(w)
	must(w.Close())
	return out.String()
}

func newKey(config *packet.Config) *openpgp.Entity {
	entity, err := openpgp.NewEntity("g", "", "g@example.invalid", config)
	must(err)
	return entity
}

func public(entity *openpgp.Entity) string {
	return armored("PGP PUBLIC KEY BLOCK", func(w io.Writer) { must(entity.Serialize(w)) })
}

func sign(entity *openpgp.Entity, text []byte, config *packet.Config) string {
	return armored("PGP MESSAGE", func(w io.Writer) {
		in, err := openpgp.Sign(w, entity, nil, config)
		must(err)
		_, err = in.Write(text)
		must(err)
		must(in.Close())
	})
}

func tell(name, message, key string, text []byte) {
	line := vector{Name: "go-crypto " + name, Message: message, Key: key}
	if text != nil {
		coded := base64.StdEncoding.EncodeToString(text)
		line.Text = &coded
	}
	must(json.NewEncoder(os.Stdout).Encode(line))
}

func main() {
	var texts [][]byte
	must(json.Unmarshal([]byte(os.Args[1]), &texts))
	kinds := []struct {
		name     string
		config   packet.Config
		accepted bool
	}{
		{"RSA 2048", packet.Config{}, true},
		{"RSA 3072", packet.Config{RSABits: 3072}, true},
		{"EdDSA", packet.Config{Algorithm: packet.PubKeyAlgoEdDSA}, true},
		{"P-256", packet.Config{Algorithm: packet.PubKeyAlgoECDSA, Curve: packet.CurveNistP256}, true},
		{"P-384, SHA-384", packet.Config{Algorithm: packet.PubKeyAlgoECDSA, Curve: packet.CurveNistP384, DefaultHash: crypto.SHA384}, true},
		{"P-521, SHA-512", packet.Config{Algorithm: packet.PubKeyAlgoECDSA, Curve: packet.CurveNistP521, DefaultHash: crypto.SHA512}, true},
		{"P-384, SHA-256", packet.Config{Algorithm: packet.PubKeyAlgoECDSA, Curve: packet.CurveNistP384}, false},
		{"P-521, SHA-256", packet.Config{Algorithm: packet.PubKeyAlgoECDSA, Curve: packet.CurveNistP521}, false},
		{"a key of a year", packet.Config{KeyLifetimeSecs: 365 * 86400}, true},
		{"brainpool", packet.Config{Algorithm: packet.PubKeyAlgoECDSA, Curve: packet.CurveBrainpoolP256}, false},
		{"secp256k1", packet.Config{Algorithm: packet.PubKeyAlgoECDSA, Curve: packet.CurveSecP256k1}, false},
		{"Ed448", packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, Curve: packet.Curve448}, false},
		{"version 5", packet.Config{V5Keys: true}, false},
	}
	for _, kind := range kinds {
		config := kind.config
		entity := newKey(&config)
		key := public(entity)
		for _, text := range texts {
			expected := text
			if !kind.accepted {
				expected = nil
			}
			tell(kind.name+": "+string(text[:min(20, len(text))]), sign(entity, text, &config), key, expected)
			if !kind.accepted {
				break
			}
		}
	}
	plain := &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA}
	text := texts[1]
	one, other := newKey(plain), newKey(plain)
	withSubkey := newKey(plain)
	must(withSubkey.AddSigningSubkey(plain))
	tell("a signing subkey", sign(withSubkey, text, plain), public(withSubkey), text)
	tell("another's key", sign(one, text, plain), public(other), nil)
	lasting := &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, SigLifetimeSecs: 86400}
	tell("a signature of a day", sign(one, text, lasting), public(one), text)
	past := func() time.Time { return time.Now().Add(-48 * time.Hour) }
	old := newKey(&packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, Time: past, KeyLifetimeSecs: 86400})
	tell("an expired key", sign(old, text, &packet.Config{Time: past}), public(old), nil)
	var detached bytes.Buffer
	must(openpgp.ArmoredDetachSign(&detached, one, bytes.NewReader(text), plain))
	tell("detached", detached.String(), public(one), nil)
	var clear bytes.Buffer
	in, err := clearsign.Encode(&clear, one.PrivateKey, plain)
	must(err)
	_, err = in.Write(text)
	must(err)
	must(in.Close())
	tell("clearsigned", clear.String(), public(one), nil)
	must(one.RevokeKey(packet.KeyCompromised, "", plain))
	tell("a revoked key", sign(withSubkey, text, plain), public(one), nil)
}

func min(a, b int) int {
	if a < b {
		return a
	}
	return b
}
