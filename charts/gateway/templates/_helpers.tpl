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

{{- define "gateway.labels" -}}
{{ include "gateway.selector" . }}
app.kubernetes.io/name: {{ include "gateway.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: mesh
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{- range $key, $value := omit .Values.labels "app" "istio" }}
{{ $key }}: {{ $value | quote }}
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
