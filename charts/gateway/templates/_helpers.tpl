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

{{- /* (list . "proxy"): a whole reference as it is, a name with hub and tag. */}}
{{- define "gateway.image" -}}
{{- $root := index . 0 }}{{ $image := index . 1 }}
{{- if contains "/" $image }}{{ $image }}{{ else }}{{ $root.Values.global.hub }}/{{ $image }}:{{ $root.Values.global.tag | default $root.Chart.AppVersion }}{{ end }}
{{- end }}

{{- define "gateway.pilot" -}}
{{- $suffix := "" }}
{{- if and .Values.revision (ne .Values.revision "default") }}{{ $suffix = printf "-%s" .Values.revision }}{{ end }}
{{- .Values.controlPlane.pilotAddress | default (printf "mesh-pilot%s.%s.svc:15012" $suffix .Values.controlPlane.namespace) }}
{{- end }}
