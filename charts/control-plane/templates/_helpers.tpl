{{- /* "" for the release without a revision, -<revision> for others. */}}
{{- define "mesh.suffix" -}}
{{- if and .Values.revision (ne .Values.revision "default") }}-{{ .Values.revision }}{{ end }}
{{- end }}

{{- define "mesh.revision" -}}
{{- .Values.revision | default "default" }}
{{- end }}

{{- define "mesh.tag" -}}
{{- .Values.global.tag | default .Chart.AppVersion }}
{{- end }}

{{- /* (list . "pilot"): a whole reference as it is, a name with hub and tag. */}}
{{- define "mesh.image" -}}
{{- $root := index . 0 }}{{ $image := index . 1 }}
{{- if contains "/" $image }}{{ $image }}{{ else }}{{ $root.Values.global.hub }}/{{ $image }}:{{ include "mesh.tag" $root }}{{ end }}
{{- end }}

{{- /* (list . "mesh-pilot"): what a Deployment and its Service select; never changed, a Deployment's cannot be. */}}
{{- define "mesh.selector" -}}
app: {{ index . 1 }}
{{- if eq (index . 1) "mesh-pilot" }}
istio.io/rev: {{ include "mesh.revision" (index . 0) }}
{{- end }}
{{- end }}

{{- /* (list . "mesh-pilot"): what every object has. */}}
{{- define "mesh.labels" -}}
{{- $root := index . 0 }}{{ $app := index . 1 -}}
app: {{ $app }}
istio.io/rev: {{ include "mesh.revision" $root }}
app.kubernetes.io/name: {{ $app }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: mesh
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ $root.Chart.Name }}-{{ $root.Chart.Version | replace "+" "_" }}
{{- end }}

{{- /* (list . .Values.pilot "mesh-pilot"): the same for its pods, with what the values say; the selector is the selector. */}}
{{- define "mesh.podLabels" -}}
{{- $labels := include "mesh.labels" (list (index . 0) (index . 2)) | fromYaml }}
{{- $theirs := omit ((index . 1).podLabels | default dict) "app" "istio.io/rev" }}
{{- include "mesh.texts" (mergeOverwrite $labels $theirs (dict "sidecar.istio.io/inject" "false")) | trim }}
{{- end }}

{{- /* .Values.pilot: who asks Prometheus for them, with what the values say. */}}
{{- define "mesh.podAnnotations" -}}
{{- $ours := dict "prometheus.io/scrape" "true" "prometheus.io/port" "15014" "prometheus.io/path" "/metrics" }}
{{- include "mesh.texts" (mergeOverwrite $ours (.podAnnotations | default dict)) | trim }}
{{- end }}

{{- /* Labels, annotations, environment: every value is a text, and 1000000 is not 1e+06. */}}
{{- define "mesh.text" -}}
{{- if and (kindIs "float64" .) (eq . (floor .)) }}{{ . | int64 }}{{ else }}{{ . }}{{ end }}
{{- end }}

{{- define "mesh.texts" -}}
{{- range $key, $value := . }}
{{ $key }}: {{ include "mesh.text" $value | quote }}
{{- end }}
{{- end }}

{{- /* Names of Secrets, or references to them as Kubernetes writes them: the names, as YAML. */}}
{{- define "mesh.pullSecretNames" -}}
names:
{{- range .Values.global.imagePullSecrets }}
  - {{ if kindIs "map" . }}{{ .name }}{{ else }}{{ . }}{{ end }}
{{- end }}
{{- end }}

{{- define "mesh.pullSecrets" -}}
{{- with (include "mesh.pullSecretNames" . | fromYaml).names }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "mesh.caAddress" -}}
{{- .Values.global.caAddress | default (printf "mesh-ca.%s.svc:15012" .Release.Namespace) }}
{{- end }}

{{- define "mesh.trustDomain" -}}
{{- (.Values.meshConfig).trustDomain | default "cluster.local" }}
{{- end }}

{{- define "mesh.podSecurity" -}}
runAsNonRoot: true
runAsUser: 1337
runAsGroup: 1337
fsGroup: 1337
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "mesh.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- /* (list . .Values.pilot "mesh-pilot"): where pods go. */}}
{{- define "mesh.placement" -}}
{{- $root := index . 0 }}{{ $one := index . 1 }}{{ $app := index . 2 }}
{{- with $root.Values.global.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- include "mesh.pullSecrets" $root }}
{{- with $one.nodeSelector | default $root.Values.global.defaultNodeSelector }}
nodeSelector: {{- include "mesh.texts" . | trim | nindent 2 }}
{{- end }}
{{- with $one.tolerations | default $root.Values.global.defaultTolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $one.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
topologySpreadConstraints:
{{- with $one.topologySpreadConstraints }}
  {{- toYaml . | nindent 2 }}
{{- else }}
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "mesh.selector" (list $root $app) | nindent 8 }}
{{- end }}
{{- end }}

{{- /* CA_FEDERATION: what values say of other trust domains, with their texts as files of the ConfigMap mesh-ca-federation. */}}
{{- define "mesh.federation" -}}
{{- $all := list }}
{{- range $one := .Values.ca.federation }}
  {{- $file := printf "/etc/mesh/federation/%s" $one.trustDomain }}
  {{- $bundle := dict "file" (printf "%s.bundle" $file) }}
  {{- with $one.httpsSpiffe }}
    {{- $from := dict "url" .url "endpoint_spiffe_id" .endpointSpiffeId "bundle" (printf "%s.bundle" $file) }}
    {{- $bundle = dict "https_spiffe" $from }}
  {{- end }}
  {{- with $one.httpsWeb }}
    {{- $from := dict "url" .url }}
    {{- if .roots }}{{ $_ := set $from "roots" (printf "%s.web" $file) }}{{ end }}
    {{- $bundle = dict "https_web" $from }}
  {{- end }}
  {{- $all = append $all (dict "trust_domain" $one.trustDomain "bundle" $bundle) }}
{{- end }}
{{- toJson $all }}
{{- end }}

{{- /* (list . "pilot" entries): the environment of a server: what both read, its own entries, and what the values say, which
comes in the place of ours. */}}
{{- define "mesh.env" -}}
{{- $root := index . 0 }}{{ $app := index . 1 }}
{{- $theirs := (index $root.Values $app).env | default dict }}
{{- range $name := list "POD_NAME" "POD_NAMESPACE" "REVISION" }}
{{- if hasKey $theirs $name }}
{{- $instead := ternary (ternary "`revision`" "`ca.revisions`" (eq $app "pilot")) "the pod itself" (eq $name "REVISION") }}
{{- fail (printf "%s.env.%s: %s says it, and other names go by it" $app $name $instead) }}
{{- end }}
{{- end }}
{{- $all := list }}
{{- range concat (include "mesh.commonEnv" $root | fromYamlArray) (index . 2 | fromYamlArray) }}
{{- if not (hasKey $theirs .name) }}{{ $all = append $all . }}{{ end }}
{{- end }}
{{- range $name, $value := $theirs }}
{{- $all = append $all (dict "name" $name "value" (include "mesh.text" $value)) }}
{{- end }}
{{- toYaml $all }}
{{- end }}

{{- define "mesh.commonEnv" -}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- name: TRUST_DOMAIN
  value: {{ include "mesh.trustDomain" . | quote }}
- name: CLUSTER_DOMAIN
  value: {{ .Values.global.proxy.clusterDomain | quote }}
- name: MESH_LOG
  value: {{ include "mesh.logLevel" . | quote }}
{{- end }}

{{- /* Istio's scopes `default` and `all` are everything that does not say something else, and its words are ours. */}}
{{- define "mesh.logLevel" -}}
{{- $words := dict "warning" "warn" "critical" "error" "fatal" "error" "none" "off" }}
{{- $all := list }}
{{- range splitList "," ((.Values.global.logging).level | default "info") }}
{{- $level := . | regexFind "[a-z]+$" }}
{{- $of := trimSuffix $level . | replace "default:" "" | replace "all:" "" }}
{{- $all = append $all (printf "%s%s" $of (get $words $level | default $level)) }}
{{- end }}
{{- join "," $all }}
{{- end }}

{{- define "mesh.pilotEnv" -}}
- name: CA_ADDR
  value: {{ include "mesh.caAddress" . | quote }}
- name: CLUSTER_ID
  value: {{ .Values.global.multiCluster.clusterName | quote }}
- name: REVISION
  value: {{ include "mesh.revision" . | quote }}
{{- end }}

{{- define "mesh.caEnv" -}}
- name: REVISION
  value: {{ prepend (.Values.ca.revisions | default list) "default" | uniq | join "," | quote }}
- name: DEFAULT_WORKLOAD_CERT_TTL
  value: {{ .Values.ca.workloadCertTTL | quote }}
- name: MAX_WORKLOAD_CERT_TTL
  value: {{ .Values.ca.maxWorkloadCertTTL | quote }}
- name: MIN_WORKLOAD_CERT_TTL
  value: {{ .Values.ca.minWorkloadCertTTL | quote }}
- name: CITADEL_SELF_SIGNED_CA_CERT_TTL
  value: {{ .Values.ca.rootCertTTL | quote }}
- name: CITADEL_SELF_SIGNED_ROOT_CERT_GRACE_PERIOD_PERCENTILE
  value: {{ .Values.ca.rootCertGracePercent | quote }}
- name: CA_RATE_LIMIT
  value: {{ include "mesh.text" .Values.ca.rateLimit.perSecond | quote }}
- name: CA_RATE_BURST
  value: {{ include "mesh.text" .Values.ca.rateLimit.burst | quote }}
{{- if .Values.ca.bundleEndpoint.enabled }}
- name: CA_BUNDLE
  value: {{ printf "[::]:%d" (int .Values.ca.bundleEndpoint.port) | quote }}
{{- end }}
{{- if .Values.ca.federation }}
- name: CA_FEDERATION
  value: {{ include "mesh.federation" . | quote }}
{{- end }}
{{- end }}
