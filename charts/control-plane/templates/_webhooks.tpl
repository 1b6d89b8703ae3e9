{{- /* No caBundle in either: the pilot writes it and keeps it in step with the authority; an upgrade leaves it as it is. */}}

{{- /* root, name, namespace (expressions), object (expressions), asked (whether the pod itself asks for it). */}}
{{- define "mesh.injector" }}
  - name: {{ .name }}
    clientConfig:
      service: {name: mesh-pilot{{ include "mesh.suffix" .root }}, namespace: {{ .root.Release.Namespace }}, path: /inject, port: 443}
    rules:
      - {apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods], scope: Namespaced}
    failurePolicy: Fail
    matchPolicy: Equivalent
    sideEffects: None
    admissionReviewVersions: [v1]
    reinvocationPolicy: {{ .root.Values.sidecarInjectorWebhook.reinvocationPolicy }}
    timeoutSeconds: {{ .root.Values.sidecarInjectorWebhook.timeoutSeconds }}
    namespaceSelector:
      matchExpressions:
        {{- range .namespace }}
        - {{ . }}
        {{- end }}
        # A cluster must be able to start without us, and we without ourselves.
        - {key: kubernetes.io/metadata.name, operator: NotIn, values: [kube-system, kube-public, kube-node-lease, local-path-storage{{ if not .asked }}, {{ .root.Release.Namespace }}{{ end }}]}
    objectSelector:
      matchExpressions:
        {{- range .object }}
        - {{ . }}
        {{- end }}
        {{- if .asked }}
        - {key: app, operator: NotIn, values: [mesh-pilot, mesh-ca]}
        {{- end }}
{{- end }}

{{- /* root, name: open until the pilot can be asked, which closes it then; what applies resources together with the mesh is not
refused for coming first. What is closed already stays closed in an upgrade. */}}
{{- define "mesh.validatorPolicy" }}
{{- $configuration := printf "istio-validator%s-%s" (include "mesh.suffix" .root) .root.Release.Namespace }}
{{- $live := lookup "admissionregistration.k8s.io/v1" "ValidatingWebhookConfiguration" "" $configuration }}
{{- $policy := "Ignore" }}
{{- range ($live | default dict).webhooks }}
{{- if and (eq .name $.name) (eq .failurePolicy "Fail") }}{{ $policy = "Fail" }}{{ end }}
{{- end }}
{{- $policy }}
{{- end }}

{{- /* root, name, object (an expression). */}}
{{- define "mesh.validator" }}
  - name: {{ .name }}
    clientConfig:
      service: {name: mesh-pilot{{ include "mesh.suffix" .root }}, namespace: {{ .root.Release.Namespace }}, path: /validate, port: 443}
    rules:
      - apiGroups: [networking.istio.io, security.istio.io, telemetry.istio.io, extensions.istio.io]
        apiVersions: ["*"]
        operations: [CREATE, UPDATE]
        resources: ["*"]
    failurePolicy: {{ include "mesh.validatorPolicy" . }}
    matchPolicy: Equivalent
    sideEffects: None
    admissionReviewVersions: [v1]
    timeoutSeconds: 5
    objectSelector:
      matchExpressions:
        - {{ .object }}
{{- end }}
