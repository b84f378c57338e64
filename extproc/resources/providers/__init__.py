"""Where metrics come from: what each provider brings to the AnalysisTemplate document, and the table of them."""
