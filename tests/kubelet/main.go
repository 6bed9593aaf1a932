// What kubelet makes of a credential provider: it encodes the request, runs the plugin, and decodes the answer with
// kubelet's own codecs, then looks images up as kubelet does.
//
//	kubelet PLUGIN API-VERSION IMAGE...
//
// The request is for the first image. The output has a line `cacheKeyType TYPE`, a line `cacheDuration DURATION`, a line
// `auth KEY USERNAME` for each key in the order of kubelet, and a line `image IMAGE KEY...` for each image, with the keys
// whose credentials kubelet would try, in that order.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/kubelet/pkg/apis/credentialprovider"
	"k8s.io/kubelet/pkg/apis/credentialprovider/install"
)

func main() {
	if len(os.Args) < 4 {
		fail(errors.New("usage: kubelet PLUGIN API-VERSION IMAGE..."))
	}
	plugin, version, images := os.Args[1], os.Args[2], os.Args[3:]
	response, err := ask(plugin, version, images[0])
	if err != nil {
		fail(err)
	}
	duration := "none"
	if response.CacheDuration != nil {
		duration = response.CacheDuration.Duration.String()
	}
	fmt.Println("cacheKeyType", response.CacheKeyType)
	fmt.Println("cacheDuration", duration)
	keys := inOrder(response.Auth)
	for _, key := range keys {
		fmt.Println("auth", key, response.Auth[key].Username)
	}
	for _, image := range images {
		fmt.Println(strings.Join(append([]string{"image", image}, lookup(keys, image)...), " "))
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "kubelet:", err)
	os.Exit(1)
}

// ask is ExecPlugin of k8s.io/kubernetes v1.26.15, pkg/credentialprovider/plugin/plugin.go.
func ask(plugin, version, image string) (*credentialprovider.CredentialProviderResponse, error) {
	scheme := runtime.NewScheme()
	install.Install(scheme)
	codecs := serializer.NewCodecFactory(scheme, serializer.EnableStrict)
	info, ok := runtime.SerializerInfoForMediaType(codecs.SupportedMediaTypes(), "application/json")
	if !ok {
		return nil, errors.New("there is no JSON")
	}
	wanted, err := schema.ParseGroupVersion(version)
	if err != nil {
		return nil, err
	}
	encoder := codecs.EncoderForVersion(info.Serializer, wanted)
	request, err := runtime.Encode(encoder, &credentialprovider.CredentialProviderRequest{Image: image})
	if err != nil {
		return nil, err
	}
	answer, err := run(plugin, request)
	if err != nil {
		return nil, err
	}
	gvk, err := json.DefaultMetaFactory.Interpret(answer)
	if err != nil {
		return nil, err
	}
	if gvk.GroupVersion() != wanted {
		return nil, fmt.Errorf("%s was answered with %s", wanted, gvk.GroupVersion())
	}
	return decode(codecs, answer)
}

func run(plugin string, request []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var stdout bytes.Buffer
	command := exec.CommandContext(ctx, plugin, "credential-provider")
	command.Stdin, command.Stdout, command.Stderr = bytes.NewReader(request), &stdout, os.Stderr
	err := command.Run()
	return stdout.Bytes(), err
}

// decode is decodeResponse of the same file.
func decode(codecs serializer.CodecFactory, answer []byte) (*credentialprovider.CredentialProviderResponse, error) {
	object, gvk, err := codecs.UniversalDecoder().Decode(answer, nil, nil)
	if err != nil {
		return nil, err
	}
	response, ok := object.(*credentialprovider.CredentialProviderResponse)
	if !ok || gvk.Kind != "CredentialProviderResponse" || gvk.Group != credentialprovider.GroupName {
		return nil, fmt.Errorf("%s is no response", gvk)
	}
	switch response.CacheKeyType {
	case credentialprovider.ImagePluginCacheKeyType,
		credentialprovider.RegistryPluginCacheKeyType,
		credentialprovider.GlobalPluginCacheKeyType:
		return response, nil
	default:
		return nil, fmt.Errorf("%q is no cacheKeyType", response.CacheKeyType)
	}
}

// inOrder is the index of BasicDockerKeyring.Add in pkg/credentialprovider/keyring.go: longer keys come first.
func inOrder(auth map[string]credentialprovider.AuthConfig) []string {
	var keys []string
	for key := range auth {
		keys = append(keys, key)
	}
	sort.Sort(sort.Reverse(sort.StringSlice(keys)))
	return keys
}

// lookup is BasicDockerKeyring.Lookup, but for Docker Hub.
func lookup(keys []string, image string) []string {
	var found []string
	for _, key := range keys {
		if matches(key, image) {
			found = append(found, key)
		}
	}
	return found
}

// matches is URLsMatchStr and URLsMatch: the same port, as many parts of a host name, each of which may hold a glob,
// and a path that begins with that of the key, wherever in a component that ends.
func matches(key, image string) bool {
	glob, err := url.Parse("https://" + key)
	if err != nil {
		return false
	}
	target, err := url.Parse("https://" + image)
	if err != nil {
		return false
	}
	globParts, globPort := split(glob)
	targetParts, targetPort := split(target)
	if globPort != targetPort || len(globParts) != len(targetParts) || !strings.HasPrefix(target.Path, glob.Path) {
		return false
	}
	for i, part := range globParts {
		if matched, err := filepath.Match(part, targetParts[i]); err != nil || !matched {
			return false
		}
	}
	return true
}

// split is SplitURL.
func split(parsed *url.URL) (parts []string, port string) {
	host, port, err := net.SplitHostPort(parsed.Host)
	if err != nil {
		host, port = parsed.Host, ""
	}
	return strings.Split(host, "."), port
}
