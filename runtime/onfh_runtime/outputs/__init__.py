"""What is written: result.json, report.html, the SR and the SEG. Import the modules; highdicom loads on first use."""
