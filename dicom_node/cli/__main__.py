"""`python -P -m dicom_node.cli`: how the supervisor starts its processes."""

from dicom_node.cli.main import main

main()
