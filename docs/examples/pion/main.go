// Link Pion with whoever comes: a browser tab, Node, a robot, another of these. Say hello, and print what is heard.
//
//	go run . http://127.0.0.1:8000/ chess
//
// With Debian's package golang-github-pion-webrtc.v3-dev, and nothing from elsewhere, it must lie in a GOPATH:
//
//	mkdir -p ~/go/src && cp -r docs/examples/pion ~/go/src/ && cd ~/go/src/pion
//	GO111MODULE=off GOPATH=$HOME/go:/usr/share/gocode go build
package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/pion/webrtc/v3"
)

const (
	gatherWithin = 1500 * time.Millisecond // that a STUN or TURN server may take to answer
	openWithin   = 10 * time.Second        // until a link must be open
	holdWithin   = 65 * time.Second        // above any sensible REQUEST_TIMEOUT
)

var errBadSignal = errors.New("the other peer's signal cannot be read")

// A reply of the server's, with the HTTP status that says what it is.
type reply struct {
	status       int
	Type         string  `json:"TYPE"`
	Signal       string  `json:"SIGNAL"`
	Nonce        string  `json:"NONCE"`
	AnswerWithin float64 `json:"ANSWER_WITHIN"`
	RetryAfter   float64 `json:"RETRY_AFTER"`
	Detail       string  `json:"DETAIL"`
}

// A peer has a connection of its own for each offer and each answer, until one opens.
type peer struct {
	url, namespace, fingerprint, id string
	configuration                   webrtc.Configuration
	hear                            func(string)

	connection *webrtc.PeerConnection
	channel    *webrtc.DataChannel
	opened     chan struct{}
	closed     chan struct{}
}

func random() string {
	bytes := make([]byte, 16)
	if _, err := rand.Read(bytes); err != nil {
		log.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(bytes)
}

// post sends one request and reads its reply. If none comes, the server is told that we have left.
func (p *peer) post(ctx context.Context, kind string, more url.Values) (reply, error) {
	form := url.Values{"TYPE": {kind}, "FINGERPRINT": {p.fingerprint}, "REQUEST": {random()}}
	if p.namespace != "" {
		form.Set("NAMESPACE", p.namespace)
		form.Set("REMATCH", "1")
	}
	for name, values := range more {
		form[name] = values
	}
	held, cancel := context.WithTimeout(ctx, holdWithin)
	defer cancel()
	answered, err := send(held, p.url, form)
	if err != nil {
		leave := url.Values{"TYPE": {"LEAVE"}, "FINGERPRINT": {p.fingerprint}, "REQUEST": form["REQUEST"]}
		soon, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, _ = send(soon, p.url, leave)
	}
	return answered, err
}

func send(ctx context.Context, to string, form url.Values) (reply, error) {
	var found reply
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, to, strings.NewReader(form.Encode()))
	if err != nil {
		return found, err
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	response, err := client.Do(request)
	if err != nil {
		return found, err
	}
	defer response.Body.Close()
	found.status = response.StatusCode
	if err := json.NewDecoder(response.Body).Decode(&found); err != nil && found.status == http.StatusOK {
		return found, err
	}
	return found, nil
}

// A redirect would make a GET of a POST.
var client = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}

// connect looks for a peer until a link is open, and says which role we have.
func (p *peer) connect(ctx context.Context) (string, error) {
	for failures := 0; ; failures++ {
		role, wait, err := p.attempt(ctx)
		if err == nil || wait < 0 || ctx.Err() != nil {
			return role, err
		}
		log.Printf("%v; again in %v", err, wait)
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(wait + time.Duration(failures%5)*time.Second):
		}
	}
}

// attempt offers a link, and answers another peer's offer if the server hands us one. Both sides begin as
// initiators. The duration is how long to wait until the next attempt, or below zero if there is none.
func (p *peer) attempt(ctx context.Context) (string, time.Duration, error) {
	role, kind, more := "initiator", "CONNECT", url.Values{}
	offer, err := p.offer()
	if err != nil {
		return "", -1, err
	}
	more.Set("SIGNAL", offer)
	for {
		got, err := p.post(ctx, kind, more)
		switch {
		case err != nil:
			return "", time.Second, err
		case got.Type == "ANSWER":
			if err := p.apply(got.Signal); err != nil {
				return "", 0, err
			}
			return role, 0, p.open()
		case got.Type == "DELIVERED":
			return role, 0, p.open()
		case got.Type == "DEMOTE":
			role, kind, more = "responder", "CONNECT", url.Values{"NONCE": {got.Nonce}}
			answer, err := p.answer(got)
			if errors.Is(err, errBadSignal) { // another one, please, and here is a new offer
				role, kind = "initiator", "BOUNCE"
				answer, err = p.offer()
			}
			if err != nil {
				return "", -1, err
			}
			more.Set("SIGNAL", answer)
		case got.status >= 500 || (got.status > 200 && got.status < 300) || got.status == 429:
			return "", time.Duration(got.RetryAfter * float64(time.Second)), fmt.Errorf("%d %s", got.status, got.Type)
		default:
			return "", -1, fmt.Errorf("%d %s %s", got.status, got.Type, got.Detail)
		}
	}
}

func (p *peer) begin() (err error) {
	if p.connection != nil {
		_ = p.connection.Close()
	}
	p.opened, p.closed = make(chan struct{}), make(chan struct{})
	p.connection, err = webrtc.NewPeerConnection(p.configuration)
	return err
}

func (p *peer) use(channel *webrtc.DataChannel) {
	p.channel = channel
	opened, closed := p.opened, p.closed
	channel.OnOpen(func() { close(opened) })
	channel.OnClose(func() { close(closed) })
	channel.OnMessage(func(message webrtc.DataChannelMessage) { p.hear(string(message.Data)) })
}

func (p *peer) offer() (string, error) {
	if err := p.begin(); err != nil {
		return "", err
	}
	channel, err := p.connection.CreateDataChannel("spacerift", nil)
	if err != nil {
		return "", err
	}
	p.use(channel)
	description, err := p.connection.CreateOffer(nil)
	if err != nil {
		return "", err
	}
	return p.signal(description, gatherWithin)
}

func (p *peer) answer(demote reply) (string, error) {
	if err := p.begin(); err != nil {
		return "", err
	}
	p.connection.OnDataChannel(p.use)
	if err := p.apply(demote.Signal); err != nil {
		return "", err
	}
	description, err := p.connection.CreateAnswer(nil)
	if err != nil {
		return "", fmt.Errorf("%w: %v", errBadSignal, err)
	}
	half := time.Duration(demote.AnswerWithin / 2 * float64(time.Second))
	if half <= 0 || half > gatherWithin {
		half = gatherWithin
	}
	return p.signal(description, half)
}

// signal is the description with the candidates that are gathered by then.
func (p *peer) signal(description webrtc.SessionDescription, within time.Duration) (string, error) {
	gathered := webrtc.GatheringCompletePromise(p.connection)
	if err := p.connection.SetLocalDescription(description); err != nil {
		return "", err
	}
	select {
	case <-gathered:
	case <-time.After(within):
	}
	local := p.connection.LocalDescription()
	text, err := json.Marshal(map[string]string{"type": local.Type.String(), "sdp": local.SDP, "id": p.id})
	return string(text), err
}

func (p *peer) apply(text string) error {
	var description webrtc.SessionDescription
	if err := json.Unmarshal([]byte(text), &description); err != nil {
		return fmt.Errorf("%w: %v", errBadSignal, err)
	}
	if err := p.connection.SetRemoteDescription(description); err != nil {
		return fmt.Errorf("%w: %v", errBadSignal, err)
	}
	return nil
}

func (p *peer) open() error {
	select {
	case <-p.opened:
		return nil
	case <-time.After(openWithin):
		p.fingerprint = random() // the server remembers the pair; as somebody else we may try once more
		return errors.New("the link did not open")
	}
}

// servers asks the server for ICE servers. Pion takes no STUN URL with a query.
func servers(at string) ([]webrtc.ICEServer, error) {
	response, err := client.Get(strings.TrimRight(at, "/") + "/ice")
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	var found struct{ IceServers []map[string]any }
	if err := json.NewDecoder(response.Body).Decode(&found); err != nil || response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("/ice: %s %v", response.Status, err)
	}
	servers := []webrtc.ICEServer{}
	for _, each := range found.IceServers {
		server := webrtc.ICEServer{Credential: each["credential"]}
		server.Username, _ = each["username"].(string)
		urls, isList := each["urls"].([]any)
		if !isList {
			urls = []any{each["urls"]}
		}
		for _, one := range urls {
			text, _ := one.(string)
			if strings.HasPrefix(text, "stun") {
				text, _, _ = strings.Cut(text, "?")
			}
			server.URLs = append(server.URLs, text)
		}
		servers = append(servers, server)
	}
	return servers, nil
}

func main() {
	log.SetFlags(0)
	fingerprint := flag.String("fingerprint", random(), "tells peers behind one address apart")
	say := flag.String("say", "hello from Pion", "what is said")
	every := flag.Duration("every", 0, "say it again and again")
	flag.Parse()
	p := &peer{url: flag.Arg(0), namespace: flag.Arg(1), fingerprint: *fingerprint, id: random()}
	p.hear = func(text string) { fmt.Println(text) }
	found, err := servers(p.url)
	if err != nil {
		log.Fatal(err)
	}
	p.configuration.ICEServers = found
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	role, err := p.connect(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("linked, as the", role)
	for {
		if err := p.channel.SendText(*say); err != nil {
			log.Print(err)
		}
		again := time.After(*every)
		if *every == 0 {
			again = nil
		}
		select {
		case <-again:
			continue
		case <-p.closed: // they said goodbye
		case <-ctx.Done():
			_ = p.channel.Close()
			time.Sleep(100 * time.Millisecond) // until it is heard
		}
		_ = p.connection.Close()
		return
	}
}
