{{- define "gateway.name" -}}
{{- .Values.name | default .Release.Name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- /* What `istio:` says: the name without a leading istio-. */}}
{{- define "gateway.istio" -}}
{{- .Values.labels.istio | default (include "gateway.name" . | trimPrefix "istio-") }}
{{- end }}

{{- define "gateway.account" -}}
{{- .Values.serviceAccount.name | default (include "gateway.name" .) }}
{{- end }}

{{- /* Never changed: a Deployment's selector cannot be. */}}
{{- define "gateway.selector" -}}
app: {{ .Values.labels.app | default (include "gateway.name" .) }}
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
{{- include "gateway.texts" (mergeOverwrite $ours (index . 1) (omit $root.Values.labels "app" "istio" "sidecar.istio.io/inject")) }}
{{- end }}

{{- define "gateway.labels" -}}
{{- include "gateway.labelsWith" (list . dict) }}
{{- end }}

{{- /* Labels or annotations: every value is a text. */}}
{{- define "gateway.texts" -}}
{{- range $key, $value := . }}
{{ $key }}: {{ $value | quote }}
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
