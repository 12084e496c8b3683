{{- define "mayfly.name" -}}
{{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "mayfly.fullname" -}}
{{- $name := include "mayfly.name" . -}}
{{- if .Values.fullnameOverride -}}
{{ .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains $name .Release.Name -}}
{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" }}
{{- end -}}
{{- end }}

{{- define "mayfly.headless" -}}
{{ include "mayfly.fullname" . }}-headless
{{- end }}

{{/* Prometheus' job: the alerts look for mayfly in it. */}}
{{- define "mayfly.job" -}}
{{- $name := include "mayfly.fullname" . -}}
{{ ternary $name (printf "mayfly-%s" $name) (contains "mayfly" $name) }}
{{- end }}

{{- define "mayfly.selector" -}}
app.kubernetes.io/name: {{ include "mayfly.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "mayfly.labels" -}}
{{ include "mayfly.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "mayfly.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ default (include "mayfly.fullname" .) .Values.serviceAccount.name }}
{{- else -}}
{{ default "default" .Values.serviceAccount.name }}
{{- end -}}
{{- end }}

{{- define "mayfly.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}
{{ printf "%s@%s" $image.repository $image.digest }}
{{- else -}}
{{ printf "%s:%s" $image.repository (default (printf "%s%s" .Chart.AppVersion (ternary "-cuda" "" (gt (int .Values.gpu.count) 0))) $image.tag) }}
{{- end -}}
{{- end }}

{{- define "mayfly.tlsSecret" -}}
{{- if .Values.tls.secretName -}}
{{ .Values.tls.secretName }}
{{- else if .Values.tls.certManager.enabled -}}
{{ include "mayfly.fullname" . }}-tls
{{- end -}}
{{- end }}

{{/* Numbers of values are floats: 65536 must not become 6.5536e+04. */}}
{{- define "mayfly.flagValue" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}{{ int64 . }}{{- else -}}{{ . }}{{- end -}}
{{- end }}

{{/* What the server would refuse, or could not do, said before anything is installed. */}}
{{- define "mayfly.check" -}}
{{- $tls := include "mayfly.tlsSecret" . -}}
{{- if and (not .Values.insecure) (not $tls) -}}
{{ fail "set tls.secretName or tls.certManager.enabled, or insecure=true: calls would arrive in plaintext" }}
{{- end -}}
{{- if and (not .Values.insecure) (not .Values.auth.secretName) (not .Values.tls.clientCa.secretName) -}}
{{ fail "set auth.secretName or tls.clientCa.secretName, or insecure=true: everybody could call" }}
{{- end -}}
{{- if and .Values.tls.clientCa.secretName (not $tls) -}}
{{ fail "tls.clientCa needs tls.secretName or tls.certManager.enabled" }}
{{- end -}}
{{- if and .Values.tls.certManager.enabled (not .Values.tls.certManager.issuerRef) -}}
{{ fail "tls.certManager needs an issuerRef" }}
{{- end -}}
{{- if not (or .Values.model.volume .Values.model.init.image .Values.model.inImage) -}}
{{ fail "set model.volume, model.init.image or model.inImage: where does the model come from?" }}
{{- end -}}
{{- if and .Values.model.volume .Values.model.init.image -}}
{{ fail "model.volume and model.init.image exclude each other" }}
{{- end -}}
{{- if and .Values.snapshots.enabled (not .Values.snapshots.keySecret.name) -}}
{{ fail "snapshots need keySecret.name" }}
{{- end -}}
{{- if and .Values.snapshots.volume .Values.snapshots.storeSecret.name -}}
{{ fail "snapshots.volume and snapshots.storeSecret exclude each other" }}
{{- end -}}
{{- if and .Values.autoscaling.hpa.enabled .Values.autoscaling.keda.enabled -}}
{{ fail "autoscaling.hpa and autoscaling.keda exclude each other" }}
{{- end -}}
{{- if and .Values.gateway.enabled (not .Values.gateway.parentRefs) -}}
{{ fail "gateway needs parentRefs" }}
{{- end -}}
{{- end }}
