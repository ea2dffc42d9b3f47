//! OpenMetrics over HTTP.
