{{- define "gateway.name" -}}
{{- .Values.name | default .Release.Name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- /* What `istio:` says: the name without a leading istio-. */}}
{{- define "gateway.istio" -}}
{{- (.Values.labels).istio | default (include "gateway.name" . | trimPrefix "istio-") }}
{{- end }}

{{- define "gateway.account" -}}
{{- .Values.serviceAccount.name | default (include "gateway.name" .) }}
{{- end }}

{{- /* Never changed: a Deployment's selector cannot be. */}}
{{- define "gateway.selector" -}}
app: {{ (.Values.labels).app | default (include "gateway.name" .) }}
istio: {{ include "gateway.istio" . }}
{{- end }}

{{- /* (list . more): what the values say comes before `more` and that before ours; the selector is the selector. */}}
{{- define "gateway.labelsWith" -}}
{{- $root := index . 0 }}
{{- $ours := dict "app.kubernetes.io/name" (include "gateway.name" $root) "app.kubernetes.io/instance" $root.Release.Name }}
{{- $_ := set $ours "app.kubernetes.io/version" $root.Chart.AppVersion }}
{{- $_ := set $ours "app.kubernetes.io/part-of" "mesh" }}
{{- $_ := set $ours "app.kubernetes.io/managed-by" $root.Release.Service }}
{{- $_ := set $ours "helm.sh/chart" (printf "%s-%s" $root.Chart.Name ($root.Chart.Version | replace "+" "_")) }}
{{- include "gateway.selector" $root }}
{{- include "gateway.texts" (mergeOverwrite $ours (index . 1) (omit ($root.Values.labels | default dict) "app" "istio" "sidecar.istio.io/inject")) }}
{{- end }}

{{- define "gateway.labels" -}}
{{- include "gateway.labelsWith" (list . dict) }}
{{- end }}

{{- /* Labels, annotations, environment: every value is a text, and 1000000 is not 1e+06. */}}
{{- define "gateway.text" -}}
{{- if and (kindIs "float64" .) (eq . (floor .)) }}{{ . | int64 }}{{ else }}{{ . }}{{ end }}
{{- end }}

{{- define "gateway.texts" -}}
{{- range $key, $value := . }}
{{ $key }}: {{ include "gateway.text" $value | quote }}
{{- end }}
{{- end }}

{{- /* Names of Secrets, or references to them as Kubernetes writes them. */}}
{{- define "gateway.pullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ if kindIs "map" . }}{{ .name }}{{ else }}{{ . }}{{ end }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "gateway.suffix" -}}
{{- if and .Values.revision (ne .Values.revision "default") }}-{{ .Values.revision }}{{ end }}
{{- end }}

{{- /* As YAML: what must be as the control plane has it. A value that is set comes before what the control plane says, and that
before the default. */}}
{{- define "gateway.settings" -}}
{{- $control := .Values.controlPlane }}
{{- $suffix := include "gateway.suffix" . }}
{{- $mesh := dict }}{{ $global := dict }}
{{- if $control.lookup }}
{{- $config := lookup "v1" "ConfigMap" $control.namespace (printf "istio%s" $suffix) }}
{{- $mesh = dig "data" "mesh" "{}" $config | fromYaml }}
{{- $values := lookup "v1" "ConfigMap" $control.namespace (printf "istio-sidecar-injector%s" $suffix) }}
{{- $global = dig "global" dict (dig "data" "values" "{}" $values | fromYaml) }}
{{- end }}
trustDomain: {{ $control.trustDomain | default $mesh.trustDomain | default "cluster.local" | quote }}
clusterDomain: {{ $control.clusterDomain | default (dig "proxy" "clusterDomain" "" $global) | default "cluster.local" | quote }}
clusterName: {{ $control.clusterName | default (dig "multiCluster" "clusterName" "" $global) | default "Kubernetes" | quote }}
caAddress: {{ $control.caAddress | default $global.caAddress | default (printf "mesh-ca.%s.svc:15012" $control.namespace) | quote }}
hub: {{ .Values.global.hub | default $global.hub | default "mesh" | quote }}
tag: {{ .Values.global.tag | default $global.tag | default .Chart.AppVersion | quote }}
{{- end }}

{{- /* (list settings "proxy"): a whole reference as it is, a name with hub and tag. */}}
{{- define "gateway.image" -}}
{{- $settings := index . 0 }}{{ $image := index . 1 }}
{{- if contains "/" $image }}{{ $image }}{{ else }}{{ $settings.hub }}/{{ $image }}:{{ $settings.tag }}{{ end }}
{{- end }}

{{- define "gateway.pilot" -}}
{{- .Values.controlPlane.pilotAddress | default (printf "mesh-pilot%s.%s.svc:15012" (include "gateway.suffix" .) .Values.controlPlane.namespace) }}
{{- end }}

{{- /* (list . settings): what the values say, as names or as whole entries, comes in the place of ours. */}}
{{- define "gateway.env" -}}
{{- $root := index . 0 }}
{{- $theirs := $root.Values.env | default dict }}
{{- $entries := $root.Values.envVarFrom | default list }}
{{- $whole := dict }}
{{- range $entries }}{{ $_ := set $whole (.name | toString) true }}{{ end }}
{{- $all := list }}
{{- range include "gateway.ourEnv" . | fromYamlArray }}
{{- if not (or (hasKey $theirs .name) (hasKey $whole .name)) }}{{ $all = append $all . }}{{ end }}
{{- end }}
{{- range $name, $value := $theirs }}
{{- if not (hasKey $whole $name) }}{{ $all = append $all (dict "name" $name "value" (include "gateway.text" $value)) }}{{ end }}
{{- end }}
{{- toYaml (concat $all $entries) }}
{{- end }}

{{- define "gateway.ourEnv" -}}
{{- $root := index . 0 }}{{ $settings := index . 1 }}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- name: POD_UID
  valueFrom: {fieldRef: {fieldPath: metadata.uid}}
- name: INSTANCE_IP
  valueFrom: {fieldRef: {fieldPath: status.podIP}}
- name: INSTANCE_IPS
  valueFrom: {fieldRef: {fieldPath: status.podIPs}}
- name: SERVICE_ACCOUNT
  valueFrom: {fieldRef: {fieldPath: spec.serviceAccountName}}
{{- if dig "limits" "cpu" "" ($root.Values.resources | default dict) }}
- name: ISTIO_CPU_LIMIT
  valueFrom: {resourceFieldRef: {resource: limits.cpu}}
{{- end }}
- name: TRUST_DOMAIN
  value: {{ $settings.trustDomain | quote }}
- name: CLUSTER_DOMAIN
  value: {{ $settings.clusterDomain | quote }}
- name: CA_ADDR
  value: {{ $settings.caAddress | quote }}
- name: PILOT_ADDR
  value: {{ include "gateway.pilot" $root | quote }}
- name: MESH_CONTROL_PLANE_NAMESPACE
  value: {{ $root.Values.controlPlane.namespace | quote }}
- name: MESH_TERMINATION_GRACE_SECONDS
  value: {{ $root.Values.terminationGracePeriodSeconds | quote }}
- name: ISTIO_META_CLUSTER_ID
  value: {{ $settings.clusterName | quote }}
- name: PROXY_CONFIG
  value: {{ $root.Values.proxyConfig | default dict | toJson | quote }}
- name: MESH_LOG
  value: {{ get (dict "warning" "warn" "critical" "error") $root.Values.logLevel | default $root.Values.logLevel | quote }}
{{- end }}
