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
{{- $theirs := omit (index . 1).podLabels "app" "istio.io/rev" }}
{{- include "mesh.texts" (mergeOverwrite $labels $theirs (dict "sidecar.istio.io/inject" "false")) | trim }}
{{- end }}

{{- /* .Values.pilot: who asks Prometheus for them, with what the values say. */}}
{{- define "mesh.podAnnotations" -}}
{{- $ours := dict "prometheus.io/scrape" "true" "prometheus.io/port" "15014" "prometheus.io/path" "/metrics" }}
{{- include "mesh.texts" (mergeOverwrite $ours .podAnnotations) | trim }}
{{- end }}

{{- /* Labels or annotations: every value is a text. */}}
{{- define "mesh.texts" -}}
{{- range $key, $value := . }}
{{ $key }}: {{ $value | quote }}
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
nodeSelector: {{- toYaml . | nindent 2 }}
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

{{- /* (list . .Values.pilot): the environment that both servers read. */}}
{{- define "mesh.env" -}}
{{- $root := index . 0 }}{{ $one := index . 1 }}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- name: TRUST_DOMAIN
  value: {{ include "mesh.trustDomain" $root | quote }}
- name: CLUSTER_DOMAIN
  value: {{ $root.Values.global.proxy.clusterDomain | quote }}
- name: MESH_LOG
  value: {{ $root.Values.global.logging.level | quote }}
{{- range $name, $value := $one.env }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}
